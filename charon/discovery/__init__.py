"""Floor 2: where endpoints come from, one file a source."""
