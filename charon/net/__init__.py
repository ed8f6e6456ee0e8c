"""Floor 2: sockets. The only place that receives, sends, dials and listens."""
