"""What is loaded on this worker, what fits, and where its files come from."""
