"""One workload over all peers: interleaved rounds, freshly started peers, one alive at a time."""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.benchlib.peers import PEERS, Peer, Setup
from scripts.benchlib.procs import BenchError, free_port, peer_core_busy_seconds
from scripts.benchlib.workloads import Options, Sample, Workload


@dataclass
class Result:
    """Each peer's samples, one a round; a peer in ``failed`` has none, for the reason there."""

    workload: Workload
    samples: dict[str, list[Sample]]
    failed: dict[str, str] = field(default_factory=dict)

    def values(self, peer: str, key: str) -> list[float]:
        return [sample[key] for sample in self.samples.get(peer, ())]

    def ratios(self, peer: str, reference: str, key: str) -> list[float]:
        """Round by round: neighbours in time share the machine's mood."""
        return [a / b for a, b in zip(self.values(peer, key), self.values(reference, key), strict=False) if b]

    def differences(self, peer: str, key: str) -> list[float]:
        """Round by round, what a peer has over the one that has less to do; none for those without such a one."""
        pairs = zip(self.values(peer, key), self.values(PEERS[peer].over, key), strict=False)
        return [a - b for a, b in pairs]


def run(kind: type[Workload], peers: list[Peer], options: Options) -> Result:
    """Every peer in every round, each round beginning with another one. Who fails is left out from then on."""
    with TemporaryDirectory(prefix="charon-bench-") as folder:
        workload = kind(options, Path(folder))
        result = Result(workload, {peer.name: [] for peer in peers})
        port = free_port()
        with workload.backend(port) as backend:
            backend.wait_ready(workload.probe, port)
            for number in range(options.rounds):
                shift = number % len(peers)
                for peer in [*peers[shift:], *peers[:shift]]:
                    if peer.name not in result.failed:
                        _round(result, peer, port)
    return result


def _round(result: Result, peer: Peer, backend: int) -> None:
    try:
        sample = _sample(result.workload, peer, backend)
    except (BenchError, OSError) as problem:
        result.failed[peer.name] = str(problem)
        del result.samples[peer.name]
        print(f"{peer.name}: {problem}", file=sys.stderr)
        return
    first = result.workload.columns[0]
    print(f"{peer.name:8} {sample[first.key]:.{first.digits}f} {first.title}", file=sys.stderr)
    result.samples[peer.name].append(sample)


def _sample(workload: Workload, peer: Peer, backend: int) -> Sample:
    options = workload.options
    with TemporaryDirectory(prefix=f"{peer.name}-", dir=workload.folder) as folder:
        log = options.access_log if peer.access_log is None else peer.access_log
        setup = Setup(workload.mode, free_port(), backend, log, options.room, Path(folder))
        with peer.start(setup) as running:
            running.wait_ready(workload.probe, setup.listen)
            others, began = peer_core_busy_seconds() - running.cpu_seconds(), time.monotonic()
            sample = workload.measure(running, setup.listen)
            others = peer_core_busy_seconds() - running.cpu_seconds() - others
            sample["others_percent"] = max(0.0, others / (time.monotonic() - began) * 100)
        if workload.logged:
            _check_log(setup, sample["log_lines"])
    return sample


def _check_log(setup: Setup, requests: float) -> None:
    """Equal work means a line for every request, or none but a few about starting and stopping."""
    lines = setup.log.read_bytes().count(b"\n") if setup.log.exists() else 0
    if (lines < requests) if setup.access_log else (lines > 100):
        state = "on" if setup.access_log else "off"
        raise BenchError(f"{lines} log lines after {requests:.0f} requests with the access log {state}")
