"""Floor 5: small servers and clients for trying a proxy out: ``python -m charon.testing.echo_server`` and others."""
