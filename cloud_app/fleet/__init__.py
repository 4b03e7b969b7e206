"""The fleet: registrations, heartbeats, placements, liveness."""
