"""Floor 2: memory that all processes of one Charon share, for what must be exact across workers."""
