"""What end-to-end tests stand on: Charon as a process, backends and clients that speak by hand.

Nothing here shares code with what it tests, and nothing sleeps: every wait is for an event and is bounded.
"""

PATIENCE = 30.0
"""Seconds that any single wait of a test may last. A test that passes never waits that long."""
