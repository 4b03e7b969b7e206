"""HTTP: the OpenAI-compatible API, the fleet's API, the Fleet page, health."""
