"""Decisions as pure functions: no clock, no I/O, no randomness, no logging.

Every returned value carries its reasons, so a decision can be read, tested and replayed
from dataclasses alone.
"""
