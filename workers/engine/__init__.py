"""Engines: what runs a model. The registry knows them, a child process holds each.

Only ``torch`` loads torch; the worker's own process stays free of it.
"""
