"""Charon from this tree, bare and with more and more to do."""

import json
import os
import sys
from typing import Any, ClassVar

from scripts.benchlib.peer import NEVER_REACHED, ROOT, Certificate, Peer, Setup


class Charon(Peer):
    """What protects upstreams is off, as the others come without it."""

    name = program = "charon"
    settings = "compiled, as packaged; one worker and its supervisor; no breaker, probes, passive health or retries"
    version_argv = (sys.executable, "-P", "-m", "charon", "version")
    protection: ClassVar[dict[str, Any]] = {
        "circuit_breaker": {"enabled": False},
        "health_check": {"enabled": False, "passive_failures": 0},
        "retry": {"attempts": 0},
    }

    def missing(self) -> str:
        return ""

    def besides(self, setup: Setup) -> dict[str, Any]:
        """What the configuration has besides the listener."""
        return self.protection

    def command(self, setup: Setup) -> list[str]:
        listener: dict[str, Any] = {"name": "bench", "address": f"127.0.0.1:{setup.listen}"}
        listener["protocol"] = "http" if setup.mode.startswith("http") else "tcp"
        if setup.mode == "original-destination":
            listener["original_destination"] = True
        else:
            listener["target_service_addr"] = f"127.0.0.1:{setup.backend}"
        if setup.mode == "https":
            cert, key = Certificate.of(setup)
            listener["tls"] = {"enabled": True, "cert_file": cert, "key_file": key, "client_auth": "none"}
        config = {
            **self.besides(setup),
            "workers": self.workers,
            "limits": {"max_connections": setup.room},
            "listeners": [listener],
            "logging": {"file": str(setup.log), "access_log": setup.access_log},
            "admin": {"socket": str(setup.folder / "admin.sock")},
        }
        if setup.mode == "original-destination":  # rules of its own that never match: it then marks its connections
            config["intercept"] = {"enabled": True, "outbound": {"listener": "bench", "ports": [1]}}
        path = setup.write("config.yaml", json.dumps(config, indent=1))  # JSON is YAML
        return [sys.executable, "-P", "-m", "charon", "run", "--config", path]


class CharonFull(Charon):
    """With breaker, probes, passive health, retries and a rate limit that is never reached."""

    name = "charon-full"
    settings = "breaker, health checks each second, passive health, two retries, and a rate limit that is never reached"
    base = "charon"
    protection: ClassVar[dict[str, Any]] = {
        "circuit_breaker": {"enabled": True},
        "health_check": {"enabled": True, "interval": "1s"},
        "retry": {"attempts": 2},
        "rate_limit": {"requests_per_second": NEVER_REACHED},
    }


_UNCOUNTED = """
import charon.net.patch
from charon.telemetry import metrics
metrics.WorkerMetrics.http_request = metrics.UpstreamMetrics.reused = lambda *arguments: None
"""


class CharonTwo(Charon):
    """With two workers on two cores."""

    name = "charon-2"
    base = "charon"
    settings = "as charon, with two workers"
    workers = 2


class CharonUncounted(Charon):
    """No access log, and what counts a request taken out, which no configuration does."""

    name = "charon-uncounted"
    settings = "no access log, and what counts a request taken out, which no configuration does"
    access_log = False

    def command(self, setup: Setup) -> list[str]:
        setup.write("sitecustomize.py", _UNCOUNTED)  # which every Python imports when it starts
        path = os.pathsep.join([str(setup.folder), os.environ.get("PYTHONPATH", str(ROOT))])
        return ["env", f"PYTHONPATH={path}", *super().command(setup)]


class CharonCounted(Charon):
    """Metrics, and no access log."""

    name = "charon-counted"
    settings = "metrics, no access log"
    base = "charon-uncounted"
    access_log = False


class CharonLogged(Charon):
    """Metrics, and a JSON line a request to a file."""

    name = "charon-logged"
    settings = "metrics and a JSON line a request to a file"
    base = "charon-counted"
    access_log = True


class CharonTraced(Charon):
    """With tracing of every hundredth request, exported to the backend, which says yes to everything."""

    name = "charon-traced"
    settings = "tracing of one request in a hundred, exported over OTLP to a server that takes everything"
    base = "charon"
    ratio = 0.01

    def besides(self, setup: Setup) -> dict[str, Any]:
        endpoint = f"http://127.0.0.1:{setup.backend}/v1/traces"
        return self.protection | {
            "tracing": {"enabled": True, "otlp_endpoint": endpoint, "sample_ratio": self.ratio},
        }


class CharonTracedAll(CharonTraced):
    """With tracing of every request."""

    name = "charon-traced-all"
    settings = "tracing of every request, exported likewise"
    ratio = 1.0
