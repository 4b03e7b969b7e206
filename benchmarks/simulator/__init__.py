"""A fleet of continuous-batching workers in simulated time, and ways to route to it."""
