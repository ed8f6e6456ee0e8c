"""What config.yaml may hold: one file a subject, each key documented where it stands."""
