"""The engine's child process: scheduler, backend, loop. No torch."""
