"""Small requests by wrk, over connections that stay or a new one for each."""

import json

from scripts.benchlib.figures import Column, Sample
from scripts.benchlib.procs import BenchError, Child, load
from scripts.benchlib.workload import Workload


class Http(Workload):
    """Its script has no hook per request: wrk then sends one prepared request, at C speed."""

    name = "http"
    text = "HTTP keep-alive, {connections} connections, 100-byte answers, {log}"
    logged = True
    scheme = "http"
    columns: tuple[Column, ...] = (
        Column("cpu_us", "CPU µs/request", 1, ratio=True),
        Column("per_second", "requests/s", 0),
        Column("p50_ms", "p50 ms", 2),
        Column("p99_ms", "p99 ms", 2),
        Column("p999_ms", "p99.9 ms", 2),
    )
    script = """done = function(summary, latency)
      local e = summary.errors
      io.write(string.format('REPORT {"requests":%d,"us":%d,"errors":%d,"p50":%g,"p99":%g,"p999":%g}',
        summary.requests, summary.duration, e.connect + e.read + e.write + e.timeout + e.status,
        latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
    end"""

    def measure(self, peer: Child, port: int) -> Sample:
        warm = self.wrk(port, 1)  # upstream connections, code paths, allocator
        before = peer.cpu_seconds()
        report = self.wrk(port, self.options.seconds)
        cpu = peer.cpu_seconds() - before
        return {
            "cpu_us": cpu / report["requests"] * 1e6,
            "per_second": report["requests"] / report["us"] * 1e6,
            "p50_ms": report["p50"] / 1e3,
            "p99_ms": report["p99"] / 1e3,
            "p999_ms": report["p999"] / 1e3,
            "units": report["requests"],
            "log_lines": warm["requests"] + report["requests"],
        }

    def wrk(self, port: int, seconds: int) -> dict[str, float]:
        """What it did in ``seconds``; BenchError when a request failed."""
        (self.folder / "wrk.lua").write_text(self.script)
        argv = ["wrk", "-t1", f"-c{self.options.connections}", f"-d{seconds}s", "-s", str(self.folder / "wrk.lua")]
        said = load([*argv, f"{self.scheme}://127.0.0.1:{port}/"])[0]
        mark, report = said.partition("REPORT ")[1:]
        if not mark:
            raise BenchError(f"wrk: {said.strip()[-200:]}")
        figures: dict[str, float] = json.loads(report)
        if figures["errors"] or not figures["requests"]:
            raise BenchError(f"{figures['errors']} errors in {figures['requests']} requests")
        return figures


class HttpBare(Http):
    """Nothing but the forwarding."""

    name = "http-bare"
    access_log = False


class HttpNew(Http):
    """Each request asks the proxy to close its connection, and wrk opens another.
    Latency begins when that stands."""

    name = "http-new"
    text = "HTTP, a new connection for each request, {connections} at once, 100-byte answers, {log}"
    script = 'wrk.headers["Connection"] = "close"\n' + Http.script


class HttpFull(Http):
    """The same requests through routes that are protected, beside the bare ones."""

    name = "http-full"
    text = Http.text + "; -full: rate limit, breaker, health checks, retries"
    peers = ("charon", "charon-full", "envoy", "envoy-full", "nginx", "haproxy")
    references = ("envoy", "envoy-full", "nginx")
    columns = (Column("cpu_us", "CPU µs/request", 1, ratio=True, over="difference"), *Http.columns[1:])


class HttpRecords(Http):
    """The same requests, counted and logged or not."""

    name = "http-records"
    text = "HTTP keep-alive, {connections} connections, 100-byte answers; what counting and logging a request cost"
    peers = ("charon-uncounted", "charon-counted", "charon-logged")
    references = ()
    columns = HttpFull.columns


class HttpTraced(Http):
    """The same requests with tracing, beside bare ones. The exporter's process counts too."""

    name = "http-traced"
    text = Http.text + "; -traced: 1 % of the requests are sampled, -traced-all: all"
    peers = ("charon", "charon-traced", "charon-traced-all")
    references = ()
    columns = HttpFull.columns


class Scaling(Http):
    """The same requests through one worker on one core and two on two. Where there are four cores, the load has others;
    else the second worker shares its core with the load, and only CPU per request says something."""

    name = "scaling"
    text = Http.text + "; -2: two workers on two cores"
    peers = ("charon", "charon-2", "envoy", "envoy-2", "nginx", "nginx-2")
    references = ()
    workers = "one and two workers"
    columns = (
        Column("cpu_us", "CPU µs/request", 1, over="ratio"),
        Column("per_second", "requests/s", 0, over="ratio", higher=True),
        *Http.columns[2:],
    )
