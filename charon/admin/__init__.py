"""Floor 4: the admin application, ordinary WSGI on a Unix socket."""
