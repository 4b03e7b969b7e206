"""Batches: their owners manage them, the brain drives them."""
