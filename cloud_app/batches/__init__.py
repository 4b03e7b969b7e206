"""Batches: managed by their owners, driven by the brain."""
