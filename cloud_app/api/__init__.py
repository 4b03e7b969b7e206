"""Requests, responses and errors of the HTTP API; below the use cases."""
