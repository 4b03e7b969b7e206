"""A GPU host: it joins the fleet, loads what the cloud wants and serves it.

A worker obeys and never decides: the cloud says what lives here, the worker says when
it can take one more request. Only the engine's child process ever imports torch.
"""
