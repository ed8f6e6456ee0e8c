"""Floor 2: what is said about the work: events, access lines, metrics."""
