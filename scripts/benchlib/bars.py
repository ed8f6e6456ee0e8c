"""What Charon is to reach: as data, and judged by the figures of a run."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from scripts.benchlib.figures import Document, span

OTHERS = ("envoy", "nginx", "haproxy")


@dataclass(frozen=True)
class Bar:
    """``peer``'s figure in ``column`` is at most ``factor`` times that of the best of ``references``; at least, where
    the column says that more is better. ``room``: it can be seen only where the load has cores of its own."""

    text: str
    workload: str
    column: str
    peer: str
    references: tuple[str, ...]
    factor: float
    room: bool = False


BARS = (
    Bar("HTTP keep-alive, bare: CPU", "http-bare", "cpu_us", "charon", ("envoy",), 0.9),
    Bar(
        "HTTP with access log, rate limit, breaker, health checks: CPU",
        "http-full",
        "cpu_us",
        "charon-full",
        ("envoy-full",),
        1.0,
    ),
    Bar("HTTP, a connection for each request: CPU", "http-new", "cpu_us", "charon", ("envoy",), 1.0),
    Bar("HTTPS keep-alive: CPU", "https", "cpu_us", "charon", ("envoy",), 1.0),
    Bar("HTTPS, new connections: CPU", "https-new", "cpu_us", "charon", ("nginx",), 1.5),
    Bar("TCP, small messages: CPU", "tcp-messages", "cpu_us", "charon", ("envoy",), 1.1),
    Bar("TCP bulk: CPU per GB", "tcp", "cpu_s_per_gb", "charon", OTHERS, 0.75),
    Bar("Downloads of 100 MB: CPU per GB", "download-100m", "cpu_s_per_gb", "charon", OTHERS, 0.75),
    Bar("Memory of an idle connection", "memory", "kb_per_connection", "charon", ("envoy",), 0.7),
    Bar("Memory at rest, supervisor and one worker", "memory", "base_mb", "charon", ("envoy",), 1.5),
    Bar("p99 added at 50 % of capacity", "latency", "added50_p99_ms", "charon", ("nginx",), 1.5),
    Bar("Two workers: throughput", "scaling", "per_second", "charon-2", ("charon",), 1.7, room=True),
    Bar("Two workers: CPU per request", "scaling", "cpu_us", "charon-2", ("charon",), 1.1),
)


@dataclass(frozen=True)
class Verdict:
    """``ratios``: one a round. ``met`` goes by their median, None where there are none, for the reason ``why``."""

    bar: Bar
    limit: str
    ratios: list[float]
    met: bool | None
    why: str = ""

    @property
    def word(self) -> str:
        return f"not measured: {self.why}" if self.met is None else "met" if self.met else "missed"


def judge(bar: Bar, document: Document) -> Verdict:
    names = bar.references[0] if len(bar.references) == 1 else f"the best of {', '.join(bar.references)}"
    limit = f"{bar.factor:g} × {names}"
    measured = document.workload(bar.workload)
    if measured is None:
        return Verdict(bar, limit, [], None, f"{bar.workload} did not run")
    column = measured.column(bar.column)
    limit = f"{'≥' if column.higher else '≤'} {limit}"
    if bar.room and not document.machine["room"]:
        return Verdict(bar, limit, [], None, "the load has no core of its own")
    if bar.peer not in measured.samples:
        return Verdict(bar, limit, [], None, f"no figure of {bar.peer}")
    if absent := [name for name in bar.references if not measured.values(name, bar.column)]:
        return Verdict(bar, limit, [], None, f"no figure of {', '.join(absent)}")
    ratios = measured.ratios(bar.peer, bar.references, bar.column, column.higher)
    if not ratios:
        return Verdict(bar, limit, [], None, "nothing to divide by")
    middle = median(ratios)
    return Verdict(bar, limit, ratios, middle >= bar.factor if column.higher else middle <= bar.factor)


def summary(document: Document) -> list[list[str]]:
    """A table of all bars of which there is anything to say."""
    ran = {measured.name for measured in document.workloads}
    verdicts = [judge(bar, document) for bar in BARS if bar.workload in ran]
    rows = [[v.bar.text, v.limit, span(v.ratios, 2), v.word] for v in verdicts]
    return [["bar", "limit", "measured", "verdict"], *rows]
