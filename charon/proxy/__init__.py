"""Floor 3: the data plane. A connection comes in, an endpoint is picked, bytes go both ways."""
