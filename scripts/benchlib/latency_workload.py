"""What a proxy adds to the latency of requests that come at a constant rate, at shares of its own capacity."""

import json
import sys

from scripts.benchlib.figures import Column, Sample
from scripts.benchlib.http_workloads import Http
from scripts.benchlib.procs import BenchError, Child, load

SHARES = (50, 80)
"""Percent of what went through the peer in closed loop."""


def _columns() -> tuple[Column, ...]:
    percentiles = (("p50", "p50"), ("p99", "p99"), ("p999", "p99.9"))
    added = tuple(
        Column(f"added{share}_{key}_ms", f"{title} added at {share} %, ms", 3, ratio=(share, key) == (50, "p99"))
        for share in SHARES
        for key, title in percentiles
    )
    return Column("capacity", "capacity, requests/s", 0), *added, Column("late_percent", "sent late %", 1)


class Latency(Http):
    """Capacity is what wrk gets through in closed loop. Then each share of it in open loop, to the backend directly and
    through the peer, one after the other; the percentiles' difference is what the peer adds."""

    name = "latency"
    text = "HTTP in open loop at 50 and 80 % of each peer's capacity, latency over that without a proxy, {log}"
    columns = _columns()
    lengths, overhead_s = 4, 3.0

    def backend(self, port: int) -> Child:
        self._backend_port = port
        return super().backend(port)

    def measure(self, peer: Child, port: int) -> Sample:
        capacity = self.wrk(port, 1)
        rate = capacity["requests"] / capacity["us"] * 1e6
        sample = {"capacity": rate, "late_percent": 0.0, "log_lines": capacity["requests"]}
        for share in SHARES:
            direct = self._at(self._backend_port, rate * share / 100)
            through = self._at(port, rate * share / 100)
            for key in ("p50_ms", "p99_ms", "p999_ms"):
                sample[f"added{share}_{key}"] = through[key] - direct[key]
                sample[f"through{share}_{key}"] = through[key]
            sample["late_percent"] = max(sample["late_percent"], through["late_percent"])
            sample["log_lines"] += through["requests"]
        return sample

    def _at(self, port: int, rate: float) -> dict[str, float]:
        argv = [sys.executable, "-m", "scripts.benchlib.openloop", str(port), f"{rate:.1f}"]
        said = load([*argv, str(self.options.seconds), str(2 * self.options.connections)])[0]
        try:
            figures: dict[str, float] = json.loads(said)
        except ValueError as error:
            raise BenchError(f"open loop at {rate:.0f}/s: {said.strip()[-200:]}") from error
        return figures
