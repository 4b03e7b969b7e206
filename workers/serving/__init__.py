"""One delivery from the broker to its outcome."""
