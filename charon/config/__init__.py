"""Floor 1: the configuration file, its schema, and the snapshot made from it."""
