"""What end-to-end tests stand on: Charon as a process, backends and clients that speak by hand.

Nothing here shares code with what it tests, and nothing sleeps: every wait is for an event and is bounded.
"""

import os

PATIENCE = float(os.environ.get("CHARON_TEST_PATIENCE", "30"))
"""Seconds that any single wait of a test may last. A test that passes never waits that long, unless every process
measures itself (scripts/coverage) or the machine is busy with something else."""
