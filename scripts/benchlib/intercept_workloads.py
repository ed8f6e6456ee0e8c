"""Work that is not meant for the proxy: the kernel redirects it, the proxy asks where it was going, and takes it there.

It happens in a network namespace of the benchmark's own, so that no rule of the machine is touched.
"""

import ctypes
import os
import subprocess
from pathlib import Path

from scripts.benchlib.figures import Sample
from scripts.benchlib.peer import MARK
from scripts.benchlib.procs import BenchError, Child
from scripts.benchlib.tcp_workloads import TcpBulk
from scripts.benchlib.workload import Options

_CLONE_NEWNET = 0x40000000

_RULES = """add table inet bench
delete table inet bench
table inet bench {{
  chain c {{
    type nat hook output priority -100;
    meta mark {mark} return
    tcp dport {backend} redirect to :{listen}
  }}
}}
"""


class Intercepted(TcpBulk):
    """The bulk relay of ``tcp``, by the address that the client dialled."""

    name = "intercepted"
    text = "TCP bulk relay of redirected connections, {streams} stream(s) towards the client, GB = 10^9 bytes"
    mode = "original-destination"
    peers = ("charon", "envoy")
    references = ("envoy",)

    def __init__(self, options: Options, folder: Path) -> None:
        super().__init__(options, folder)
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
            raise BenchError(f"no network namespace: {os.strerror(ctypes.get_errno())}")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    def backend(self, port: int) -> Child:
        self.backend_port = port
        return super().backend(port)

    def probe(self, port: int) -> None:
        if port != self.backend_port:
            rules = _RULES.format(mark=MARK, backend=self.backend_port, listen=port)
            subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
        super().probe(self.backend_port)

    def measure(self, peer: Child, port: int) -> Sample:
        return super().measure(peer, self.backend_port)
