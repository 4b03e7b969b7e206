"""The transformers engine; nothing else imports torch."""
