"""Floor 4: the processes: one supervisor, its workers, and the channel between them."""
