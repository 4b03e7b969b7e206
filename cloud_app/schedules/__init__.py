"""Schedules: managed by their owners, fired by the brain."""
