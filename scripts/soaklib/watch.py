"""What Charon's processes hold over time, and whether any of it grows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tests.harness.charon import CharonProcess, descriptors, resident_bytes


@dataclass(frozen=True)
class Sample:
    """One process at one moment. ``second`` counts from the beginning; memory is in bytes."""

    second: float
    process: str
    pid: int
    resident: int
    proportional: int
    files: int
    greenlets: int


def proportional_bytes(pid: int) -> int:
    """Memory of a process in RAM, shared pages by their share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"the kernel does not say what {pid} has")


def samples(charon: CharonProcess, second: float) -> list[Sample]:
    """All processes now; one that ends meanwhile is left out."""
    status, body = charon.admin("/api/greenlets")
    greenlets = json.loads(body) if status == 200 else {}
    processes = {"supervisor": charon.pid}
    processes |= {f"worker {slot}": pid for slot, pid in enumerate(charon.worker_pids())}
    found = []
    for name, pid in processes.items():
        assert pid is not None
        count = len(greenlets.get(name, ()))
        try:
            taken = resident_bytes(pid), proportional_bytes(pid), len(descriptors(pid))
        except (FileNotFoundError, ProcessLookupError):
            continue  # killed a moment ago
        found.append(Sample(second, name, pid, *taken, count))
    return found


def slope(points: list[tuple[float, float]]) -> float:
    """By how much the second value grows with the first: least squares."""
    count = len(points)
    middle_x, middle_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / spread if spread else 0.0


def growth(taken: list[Sample], since: float) -> dict[str, float]:
    """Bytes in ten minutes, for each process that lived from ``since`` seconds to the end."""
    last = max(sample.second for sample in taken)
    found = {}
    for pid in {sample.pid for sample in taken}:
        own = [sample for sample in taken if sample.pid == pid]
        late = [(sample.second, float(sample.resident)) for sample in own if sample.second >= since]
        if len(late) > 2 and own[0].second <= since and own[-1].second == last:
            found[own[0].process] = slope(late) * 600
    return found
