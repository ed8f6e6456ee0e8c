"""Runs of the benchmark that never were."""

from __future__ import annotations

from typing import Any

from scripts.benchlib.figures import Document, Measured
from scripts.benchlib.http_workloads import HttpBare, Scaling
from scripts.benchlib.peers import PEERS
from scripts.benchlib.workload import Options, Workload

OPTIONS = Options(rounds=3, seconds=3, connections=32, streams=1, idle=10_000, access_log=True)
MACHINE = {"cores": 2, "cpu": "X", "kernel": "6.1", "python": "3.11", "peer_core": 0, "load_cores": "1", "room": False}


def measured(kind: type[Workload], key: str, **values: list[float]) -> Measured:
    """``kind`` with one figure of each peer in each round; ``charon_2`` stands for ``charon-2``."""
    samples = {peer.replace("_", "-"): [{key: value} for value in rounds] for peer, rounds in values.items()}
    bases = {peer: PEERS[peer].base for peer in samples if PEERS[peer].base}
    return Measured(kind.name, kind.titled(OPTIONS), kind.columns, kind.references, bases, samples)


def document(*workloads: Measured, **machine: Any) -> Document:
    names = {peer for workload in workloads for peer in workload.samples}
    peers = {
        name: {"program": PEERS[name].program, "settings": PEERS[name].settings, "missing": "", "version": "1.2"}
        for name in sorted(names)
    }
    return Document("2030-01-02", {**MACHINE, **machine}, dict(vars(OPTIONS)), peers, list(workloads))


def bare(**values: list[float]) -> Document:
    return document(measured(HttpBare, "cpu_us", **values))


def scaling(one: float, two: float, **machine: Any) -> Document:
    return document(measured(Scaling, "per_second", charon=[one], charon_2=[two]), **machine)
