"""The page of a run: docs/benchmarks.md, from the same figures as the table in the terminal."""

from __future__ import annotations

import json

from scripts.benchlib.bars import summary
from scripts.benchlib.figures import Document, Measured, markdown_table

_HEAD = """# Benchmarks

Written by `scripts/bench all --write`, {date}: {place}; {versions}.

Charon beside Envoy, nginx and HAProxy at the same work, in one run on loopback. Figures are medians of {rounds}
interleaved rounds of {seconds} s each, with the lowest and the highest in brackets; ratios are taken round by round.
CPU is what the whole process tree of the proxy used, user and system time, from /proc.

![CPU and memory of each proxy, as multiples of Envoy's](benchmarks.svg)

## What Charon is to reach

{bars}
"""

_METHOD = """## Method

- One peer is alive at a time. It is started anew for each sample, with one worker on a core of its own; the backend
  and the load have the other cores. Rounds are interleaved, and each begins with another peer.
- Every sample has a time to warm up that is not counted. With the access log on, every request must have its line.
- Small requests come from wrk (one thread, {connections} connections) and are answered by nginx without a proxy's work.
- New HTTPS connections come from `openssl s_time`: whole handshakes, none resumed, ECDSA P-256, no latencies.
- Large bodies come from a file that nginx sends, and go to a sink that drops them in the kernel. The client is a loop
  over one connection, of sendfile or of recv.
- In open loop, requests are due at a constant rate, whatever the answers do, and a latency counts from when a request
  was due. "Added" is the percentile through the peer less the same percentile without one, at the same rate, in the
  same sample. Capacity is what wrk gets through the peer in closed loop.
- Memory is the proportional set size (PSS) of all processes of the peer, after the work.

## Caveats

- Loopback has no wire: the kernel's share of the work is smaller than between machines, and the copies are cheaper.
- CPU says what a request costs; throughput is bounded by the load and the backend too, which share {load_cores}. Peers
  that cost less than the load does show less than they could, and their capacity in open loop is that of the load.
- {workers}
- "Others on its core" is what the rest of the machine took of the peer's core while it was measured: where it is more
  than a few percent, latencies are not to be trusted.
- "Sent late" is the share of requests in open loop that the load itself sent over a millisecond late. That is in the
  latencies, with a proxy and without one.
- Latency of `http-new` begins when the connection stands.
- p99.9 of large bodies is the slowest of them where there were fewer than a thousand.
"""

_APART = "The load has cores of its own beside two workers, so throughput of two workers says something."
_SHARED = "The second of two workers shares its core with the load: of two, only CPU per request says something."


def page(document: Document) -> str:
    options, machine = document.options, document.machine
    head = _HEAD.format(
        place=document.place(),
        versions=document.versions(),
        date=document.date,
        rounds=options["rounds"],
        seconds=options["seconds"],
        bars=markdown_table(summary(document)),
    )
    method = _METHOD.format(
        connections=options["connections"],
        load_cores="core " + machine["load_cores"],
        workers=_APART if machine["room"] else _SHARED,
    )
    tables = "\n".join(_workload(measured) for measured in document.workloads)
    return "\n".join([head, "## Figures\n", tables, method, _settings(document)])


def _workload(measured: Measured) -> str:
    lines = [f"### {measured.name}\n", f"{measured.title}.\n"]
    if measured.samples:
        lines.append(markdown_table(measured.rows()) + "\n")
    lines += [f"- {note}" for note in measured.notes()]
    return "\n".join(lines).rstrip() + "\n"


def _settings(document: Document) -> str:
    shown = {name: peer for name, peer in document.peers.items() if not peer["missing"]}
    lines = ["## Settings of each peer", ""]
    rows = [["peer", "version", "settings"]]
    rows += [[name, peer["version"], peer["settings"]] for name, peer in shown.items()]
    lines += [markdown_table(rows), ""]
    lines += [f"- {name} was left out: {peer['missing']}" for name, peer in document.peers.items() if peer["missing"]]
    lines += ["Their configurations for HTTP:", ""]
    for name, peer in shown.items():
        if peer.get("configuration"):
            lines += ["<details>", f"<summary>{name}</summary>", "", "```", peer["configuration"].rstrip(), "```", ""]
            lines += ["</details>", ""]
    return "\n".join(lines)


def to_text(record: dict[str, object]) -> str:
    """JSON as it is committed."""
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"
