"""The Python SDK: the client, its jobs, batches, schedules, files and streams."""
