"""What proxies hold: at rest, and for connections that do nothing."""

import socket
import time
from contextlib import ExitStack

from scripts.benchlib.figures import Column, Sample
from scripts.benchlib.procs import Child
from scripts.benchlib.workload import Workload, get


class Memory(Workload):
    name = "memory"
    text = "Memory (PSS of all processes): at rest, and for each of {idle} idle connections that made a request"
    columns = (
        Column("kb_per_connection", "KB/connection", 2, ratio=True),
        Column("base_mb", "base MB", 1, ratio=True),
    )
    lengths, overhead_s = 0, 15.0

    def measure(self, peer: Child, port: int) -> Sample:
        base = self._settled_pss(peer)
        with ExitStack() as stack:

            def connect() -> socket.socket:
                return stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))

            first = connect()
            for _ in range(200):  # what is allocated once is not a connection's
                get(first)
            before = self._settled_pss(peer)
            for _ in range(self.options.idle):
                get(connect())
            growth = self._settled_pss(peer) - before
        return {"kb_per_connection": growth / self.options.idle, "base_mb": base / 1024}

    @staticmethod
    def _settled_pss(peer: Child) -> float:
        """KB, when two looks half a second apart agree within 0.1 % (or after five seconds)."""
        last = peer.pss_kb()
        for _ in range(10):
            time.sleep(0.5)
            last, previous = peer.pss_kb(), last
            if abs(last - previous) <= previous / 1000:
                break
        return last
