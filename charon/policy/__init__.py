"""Floor 1: pure decisions. Whatever depends on time takes a clock reading as an argument."""
