"""``sender.py PORT``: zeros by sendfile to everyone who connects, until they leave."""

import os
import socketserver
import sys
import tempfile

SIZE = 1 << 20  # stays in the cache: what is measured is the proxy, not the memory behind the sender


class Feed(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with tempfile.TemporaryFile() as source:
            source.write(bytes(SIZE))
            source.flush()
            try:
                while os.sendfile(self.request.fileno(), source.fileno(), 0, SIZE):
                    pass
            except (BrokenPipeError, ConnectionResetError):
                return  # the receiver has had enough


if __name__ == "__main__":
    socketserver.ThreadingTCPServer.daemon_threads = True
    socketserver.ThreadingTCPServer(("127.0.0.1", int(sys.argv[1])), Feed).serve_forever()
