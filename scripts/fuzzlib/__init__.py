"""Fuzzing of everything that reads what a peer or a file says. See docs/testing.md."""
