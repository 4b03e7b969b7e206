"""When to ask the broker for one more request, and at which bid."""
