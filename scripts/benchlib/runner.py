"""One workload over all peers: interleaved rounds, freshly started peers, one alive at a time."""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.benchlib.figures import Measured, Sample
from scripts.benchlib.peer import Peer, Setup
from scripts.benchlib.procs import PROBLEMS, BenchError, free_port, peer_core_busy_seconds
from scripts.benchlib.workload import Options, Workload


def run(kind: type[Workload], peers: list[Peer], options: Options) -> Measured:
    """Every peer in every round, each round beginning with another one. Who fails is left out from then on; a workload
    that cannot run at all says so under ``*``."""
    bases = {peer.name: peer.base for peer in peers if peer.base}
    samples: dict[str, list[Sample]] = {peer.name: [] for peer in peers}
    measured = Measured(kind.name, kind.titled(options), kind.columns, kind.references, bases, samples)
    try:
        with TemporaryDirectory(prefix="charon-bench-") as folder:
            workload = kind(options, Path(folder))
            port = free_port()
            with workload.backend(port) as backend:
                backend.wait_ready(workload.probe, port)
                for number in range(options.rounds):
                    shift = number % len(peers)
                    for peer in [*peers[shift:], *peers[:shift]]:
                        if peer.name not in measured.failed:
                            _round(workload, measured, peer, port)
    except PROBLEMS as problem:
        samples.clear()
        measured.failed["*"] = str(problem)
        print(f"{kind.name}: {problem}", file=sys.stderr)
    return measured


def _round(workload: Workload, measured: Measured, peer: Peer, backend: int) -> None:
    try:
        sample = _sample(workload, peer, backend)
    except PROBLEMS as problem:
        measured.failed[peer.name] = str(problem)
        del measured.samples[peer.name]
        print(f"{peer.name}: {problem}", file=sys.stderr)
        return
    first = workload.columns[0]
    print(f"{workload.name:13} {peer.name:10} {sample[first.key]:.{first.digits}f} {first.title}", file=sys.stderr)
    measured.samples[peer.name].append(sample)


def _sample(workload: Workload, peer: Peer, backend: int) -> Sample:
    options = workload.options
    with TemporaryDirectory(prefix=f"{peer.name}-", dir=workload.folder) as folder:
        log = options.access_log if peer.access_log is None else peer.access_log
        setup = Setup(workload.mode, free_port(), backend, log, options.room, Path(folder), workload.bulk)
        with peer.start(setup) as running:
            running.wait_ready(workload.probe, setup.listen)
            others, began = peer_core_busy_seconds() - running.cpu_seconds(), time.monotonic()
            sample = workload.measure(running, setup.listen)
            others = peer_core_busy_seconds() - running.cpu_seconds() - others
            if peer.workers == 1:  # else it has the load's core too
                sample["others_percent"] = max(0.0, others / (time.monotonic() - began) * 100)
            sample["pss_mb"] = running.pss_kb() / 1024
        if workload.logged:
            _check_log(setup, sample["log_lines"])
    return sample


def _check_log(setup: Setup, requests: float) -> None:
    """Equal work means a line for every request, or none but a few about starting and stopping."""
    lines = setup.log.read_bytes().count(b"\n") if setup.log.exists() else 0
    if (lines < requests) if setup.access_log else (lines > 100):
        state = "on" if setup.access_log else "off"
        raise BenchError(f"{lines} log lines after {requests:.0f} requests with the access log {state}")
