"""Floor 1: HTTP/1.1 on bytes, without sockets (RFC 9110, RFC 9112)."""
