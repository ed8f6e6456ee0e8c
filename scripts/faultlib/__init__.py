"""Reliability tests: a file each in ``faults``, upon a stage that starts Charon, backends and load as processes."""
