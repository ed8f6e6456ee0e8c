"""The two files that Charon reads: any text comes to a verdict with file and line, never to an exception."""

from __future__ import annotations

import re
from collections.abc import Hashable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from charon.base.errors import ConfigError
from charon.config.compile import compile_settings
from charon.config.document import decode
from charon.config.load import read_config
from charon.config.registry import Registry, RegistryReader, _read_plainly, _read_thoroughly, parse_registry
from scripts.fuzzlib.seeds import ROOT
from scripts.fuzzlib.target import Target, add, expect

_SAYS_WHERE = re.compile(r"[^\n]*?\.yaml(?::[0-9]+)?: [^\n]+")
_ENVIRONMENT = {"NAME": "value", "PORT": "8080", "EMPTY": ""}


@cache
def _folder() -> Path:
    """A folder of this process, where the one that runs it has said that temporary files shall be."""
    return Path(mkdtemp(prefix="charon-fuzz-"))


def _kind(problem: str) -> str:
    """What is wrong, without where and with what value."""
    return re.sub(r"[0-9]+|'[^']*'|\"[^\"]*\"", "", problem.partition(": ")[2])[-40:]


def _check_problems(problems: list[str]) -> None:
    expect(problems, "refused, and nothing is said of why")
    for problem in problems:
        expect(_SAYS_WHERE.fullmatch(problem), "it says not where, or takes several lines: {!r}", problem)


def _registry(text: str) -> Registry | ConfigError:
    try:
        return parse_registry(text)
    except ConfigError as error:
        _check_problems(error.problems)
        return error


def check_registry(data: bytes) -> Hashable:
    """A registry, or two with a NUL between them: what is read after a change is what is read anew."""
    first, _, second = data.partition(b"\0")
    verdicts: list[Hashable] = []
    reader, path = RegistryReader(), _folder() / "registry.yaml"
    for part in (first, second) if second else (first,):
        try:
            text = decode(part, "registry.yaml")
        except ConfigError as error:
            _check_problems(error.problems)
            return "not UTF-8"
        found = _registry(text)
        plain = _read_plainly(text)
        if plain is not None:
            expect(plain == _read_thoroughly(text, "registry.yaml"), "the fast way reads something else")
        path.write_bytes(part)
        try:
            followed: Registry | None = reader(path)
        except ConfigError:
            followed = None
        anew = found if isinstance(found, Registry) else None
        expect(followed == anew, "after the change {}, anew {}", followed, anew)
        if isinstance(found, Registry):
            for targets in found.services.values():
                expect(all(1 <= target.weight <= 65535 for target in targets), "a weight")
            verdicts += ["read", len(found.services) > 1, plain is not None]
        else:
            verdicts.append(_kind(found.problems[0]))
    return tuple(verdicts)


def check_config(data: bytes) -> Hashable:
    """What is accepted can be compiled; what is not says where it is wrong."""
    path = _folder() / "config.yaml"
    path.write_bytes(data)
    reading = read_config(path, _ENVIRONMENT)
    expect((reading.config is None) == bool(reading.problems), "neither accepted nor refused")
    if reading.config is None:
        _check_problems(reading.problems)
        return tuple(sorted({_kind(problem) for problem in reading.problems})[:2])
    try:
        settings = compile_settings(reading.config)
    except ConfigError as error:
        _check_problems(error.problems)
        return "not compiled", _kind(error.problems[0])
    expect(len(settings.listeners) == len(reading.config.listeners), "a listener is lost")
    return "accepted", len(settings.listeners)


_REGISTRIES = [
    b"services:\n  a: 10.0.0.1:80\n  b: localhost:9091\n",
    b'services:\n  a: ["10.0.0.1:80", "10.0.0.2:80"]\n  b:\n  - x:1\n  - y:2\n  c:\n    - "z:3"\n',
    b"services:\n  w: {addresses: [{address: '10.0.0.7:80', weight: 3}, {address: h:80}]}\n",
    b"# note\nservices:\n  a: x:1\n  b: y:2\n  c: z:3\n\0# note\nservices:\n  a: x:1\n  b: y:3\n  c: z:3\n",
    b"services:\n  a: x:1\n  b: y:2\n\0services:\n  a: x:1\n  d: https://y:2\n  b: y:2\n",
    b"services: {}\n", b"services: &a {b: *a}\n", b"services:\n  a: unix:/run/a.sock\n",
    b"\xef\xbb\xbfservices:\n  a: [::1]:80\n",
]  # fmt: skip
_CONFIGS = b"""\
listen_port: 8080
target_service_addr: 127.0.0.1:9091
\0
listeners:
- name: a
  address: '127.0.0.1:0'
  target_service_name: b
registry_file: registry.yaml
services:
  b:
    addresses: ['10.0.0.1:80']
    circuit_breaker: {failure_threshold: 3, open_duration: 20s}
\0
target_service_addr: h:80
routes:
- host: '*.example.com'
  path_regex: '^/(a|b)+$'
  service: x
  methods: [GET]
  rewrite: {path: /c}
  request_headers: {set: {X-A: b}, remove: [X-C]}
  timeout: 1h30m
  retry: {attempts: 2}
\0
listen_port: ${PORT}
target_service_addr: ${NAME:-h}:80
rate_limit: {requests_per_second: 5, key: 'header:X-Key'}
tracing: {enabled: true, otlp_endpoint: 'http://localhost:4318'}
logging: {level: debug, format: console}
\0
protocol: tcp
target_service_addr: 10.0.0.1:5432
limits: {max_connections: 5, max_header_bytes: 64KiB}
drain_timeout: 5s
""".split(b"\0\n")


def _configs() -> list[bytes]:
    """The samples above, and every top-level block of the reference configuration with its remarks taken away."""
    reference = (ROOT / "etc/config.yaml").read_text().split("\n\n")
    plain = ["\n".join(line.removeprefix("# ").removeprefix("#") for line in block.split("\n")) for block in reference]
    return _CONFIGS + [block.encode() for block in plain if ":" in block and len(block) < 2000]


_YAML_WORDS = (
    b"\n", b"  ", b"- ", b": ", b":", b"{", b"}", b"[", b"]", b", ", b"'", b'"', b"#", b"&a ", b"*a", b"<<: ",
    b"!!int ", b"|\n",
    b">\n", b"?", b"---\n", b"...\n", b"%YAML 1.1\n", b"\t", b"~", b"null", b"${NAME}", b"${", b"${X:-",
    b"\xc3\xa9", b"\xff", b"\0",
    b"\xe2\x80\xa8", b"services:", b"address: ", b"addresses: ", b"weight: ", b"10.0.0.1:80", b"localhost:9091",
    b"https://a:443",
    b"unix:/a", b"[::1]:80", b"65536", b"-1", b"0", b"1e9", b"30s", b"64KiB", b"99999999999999999999", b"true",
    b"no", b"0x1F",
)  # fmt: skip
_CONFIG_WORDS = (
    b"listeners:\n- name: a\n", b"routes:\n- ", b"services:\n  a:\n    ", b"retry: {attempts: ",
    b"tls: {enabled: true}",
    b"admin: ", b"workers: ", b"intercept: ", b"protocol: ", b"host: ", b"path_regex: ", b"service: a", b"rate_limit: ",
    b"registry_file: r.yaml\n", b"target_service_name: a\n", b"timeouts: ", b"limits: ", b"rewrite: ", b"redirect: ",
)  # fmt: skip

add(Target("registry", "registry files", check_registry, lambda: list(_REGISTRIES), _YAML_WORDS, largest=4096))
add(Target("config", "config files", check_config, _configs, _YAML_WORDS + _CONFIG_WORDS, largest=4096, slow=0.5))
