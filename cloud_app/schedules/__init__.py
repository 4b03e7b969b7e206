"""Schedules: their owners manage them, the brain fires them."""
