"""All targets; importing this enters them into the register."""

from scripts.fuzzlib.targets import beginnings, bodies, fields, files, heads

__all__ = ["beginnings", "bodies", "fields", "files", "heads"]
