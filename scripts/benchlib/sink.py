"""``sink.py PORT``: takes the bodies of requests, throws them away, and answers each when all of it is there."""

import re
import socket
import socketserver
import sys

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PIECE = 1 << 20


class Sink(socketserver.BaseRequestHandler):
    """Requests with a Content-Length, one after the other: what a proxy under measurement sends."""

    def handle(self) -> None:
        try:
            self._take()
        except ConnectionResetError:
            return  # the sender went away

    def _take(self) -> None:
        buffer = bytearray(_PIECE)
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                piece = self.request.recv(65536)
                if not piece:
                    return
                data += piece
            head, _end, data = data.partition(b"\r\n\r\n")
            found = _LENGTH.search(head)
            left = int(found[1]) if found else 0
            taken = min(left, len(data))
            data, left = data[taken:], left - taken
            while left:
                # MSG_TRUNC: the kernel drops the bytes instead of copying them
                count = self.request.recv_into(buffer, min(left, _PIECE), socket.MSG_TRUNC)
                if not count:
                    return
                left -= count
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Sink).serve_forever()
