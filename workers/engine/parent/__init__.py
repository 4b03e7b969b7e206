"""The worker's side of an engine: child processes and what waits for them."""
