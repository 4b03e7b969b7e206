"""Webhooks: signed deliveries with retries."""
