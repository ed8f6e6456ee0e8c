"""Charon as its users run it: a program with a config file, watched through its log and its admin socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.harness import PATIENCE
from tests.harness.waiting import alive, eventually

LogLine = dict[str, Any]
Metrics = dict[tuple[str, frozenset[tuple[str, str]]], float]

running: list[CharonProcess] = []
"""Those that have not been stopped, and those stopped during the current test: a failure report shows their logs."""


PLAIN: dict[str, Any] = {
    "circuit_breaker": {"enabled": False},
    "health_check": {"enabled": False, "passive_failures": 0},
}
"""What a mapping begins with: scenarios that make endpoints fail are about one thing at a time. Those about breakers or
health checks say so: ``"circuit_breaker": {}`` is as if nothing had been written."""


_ACTIVATE = """
import os, sys
names, fds, command = sys.argv[1], [int(fd) for fd in sys.argv[2].split(",")], sys.argv[3:]
copies = [os.dup2(fd, 100 + place, False) for place, fd in enumerate(fds)]
for place, fd in enumerate(copies):
    os.dup2(fd, 3 + place)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=names)
os.execvp(command[0], command)
"""
"""Hands descriptors on as sd_listen_fds(3) says."""


class CharonProcess:
    """One Charon, from ``with`` to the end of the block.

    ``config`` is a mapping or the text of config.yaml; ``registry`` a mapping ``{service: address(es)}``, written as
    registry.yaml beside it, or None for no registry file. An admin socket and, in a mapping, ``workers`` are filled in
    where the config has none. The files are written when the object is made; ``with`` or :meth:`start` runs it.
    ``prefix`` is a command that runs it: ``["prlimit", "--nofile=64"]``; ``command`` what stands before ``--config``.
    ``sockets`` are handed in as a service manager does it, by name.
    """

    def __init__(
        self,
        tmp_path: Path,
        config: dict[str, Any] | str,
        registry: dict[str, Any] | None = None,
        *,
        workers: int = 1,
        env: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
        command: Sequence[str] = ("run",),
        sockets: Sequence[tuple[str, int]] = (),
    ) -> None:
        self.folder = tmp_path
        self.config_path = tmp_path / "config.yaml"
        self.registry_path = tmp_path / "registry.yaml"
        self.stderr_path = tmp_path / "stderr"
        # Paths of Unix sockets are short (unix(7)), those of pytest's folders are not always.
        self._socket_folder = Path("/tmp") / f"charon-test-{os.getpid()}-{id(self):x}"
        self.admin_socket = self._socket_folder / "admin.sock"
        self.workers = workers
        self._env = env or {}
        self._prefix = prefix
        self._command = command
        self._sockets = sockets
        self._process: subprocess.Popen[bytes] | None = None
        self._successor: int | None = None
        self._log: list[LogLine] = []
        self._raw: list[str] = []
        self._shown_from = 0
        self._marks = 0
        self._changed = threading.Condition()
        self._ended = False
        self._reader: threading.Thread | None = None
        if registry is not None:
            self.write_registry(registry)
        self.write_config(config)

    def __repr__(self) -> str:
        return f"<CharonProcess {self.folder} pid={self.pid}>"

    # -- files --------------------------------------------------------------------------------------------------

    def write_config(self, config: dict[str, Any] | str) -> None:
        """Replace config.yaml."""
        if isinstance(config, dict):
            config = {"workers": self.workers, "drain_timeout": "2s", **PLAIN, **config}
            config["admin"] = {"socket": str(self.admin_socket), **config.get("admin", {})}
            config = yaml.safe_dump(config, sort_keys=False)
        elif "\nadmin:" not in "\n" + config:
            config += f"\nadmin: {{socket: {self.admin_socket}}}\n"
        self.config_path.write_text(config)

    def write_registry(self, services: dict[str, Any] | str, *, in_place: bool = False) -> None:
        """Replace registry.yaml, by an atomic rename or in place. A mapping is what stands under ``services``."""
        text = services if isinstance(services, str) else yaml.safe_dump({"services": services}, sort_keys=False)
        if in_place:
            self.registry_path.write_text(text)
            return
        beside = self.registry_path.with_suffix(".new")
        beside.write_text(text)
        beside.replace(self.registry_path)

    # -- life ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> CharonProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self, *, wait: bool = True) -> None:
        """Run ``charon run``; with ``wait``, until it serves."""
        self._socket_folder.mkdir(exist_ok=True)
        since = len(self.log_lines())  # it may have run before
        running.append(self)
        command = [*self._prefix, sys.executable, "-m", "charon", *self._command, "--config", str(self.config_path)]
        fds = [fd for _, fd in self._sockets]
        if fds:
            names = ":".join(name for name, _ in self._sockets)
            command = [sys.executable, "-c", _ACTIVATE, names, ",".join(map(str, fds)), *command]
        with self.stderr_path.open("ab") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=self.folder,
                env={**os.environ, **self._env},
                pass_fds=fds,
            )
        assert self._process.stdout is not None
        self._ended = False
        self._reader = threading.Thread(target=self._read_log, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        if wait:
            try:
                self.wait_for_event("charon_proxy_started", since=since)
            except BaseException:
                self.end()
                raise

    def signal(self, number: int) -> None:
        """Send a signal to the supervisor."""
        assert self.pid is not None
        os.kill(self.pid, number)

    def upgrade(self) -> int:
        """Upgrade in place, until the new program has taken over; its pid. The old one goes on draining."""
        since = len(self.log_lines())
        self.signal(signal.SIGUSR2)
        taken = self.wait_for_event("taken_over", since=since)
        self.wait_for_event("charon_proxy_started", since=since)
        assert taken["predecessor"] == self.pid
        self._successor = int(self.wait_for_event("upgraded", since=since)["successor"])
        return self._successor

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit code, once it has ended and its log is read whole."""
        assert self._process is not None and self._reader is not None
        code = self._process.wait(timeout)  # after an upgrade: that of the first program
        self._reader.join(timeout)
        assert not self._reader.is_alive(), "a process of Charon's still holds its standard output"
        return code

    def kill(self) -> None:
        """End the supervisor and its workers at once, with no chance to clear up."""
        supervisor, workers = self.pid, self.worker_pids()
        assert supervisor is not None
        for pid in (supervisor, *workers):
            os.kill(pid, signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL
        eventually(lambda: not any(alive(pid) for pid in workers))

    def type(self, *words: str) -> tuple[int, str]:
        """Exit code of the command ``charon WORDS`` where this one runs, and what it says: on standard output, or else
        on standard error."""
        done = subprocess.run(
            [*self._prefix, sys.executable, "-m", "charon", *words, "--config", str(self.config_path)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return done.returncode, done.stdout or done.stderr

    def stop(self, timeout: float = PATIENCE) -> int:
        """Stop it in the orderly way (SIGTERM); the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def end(self) -> None:
        """Make sure that it and its workers are gone. Safe to repeat."""
        process = self._process
        if process is None:
            return
        workers = self.worker_pids() if process.poll() is None or self._successor is not None else []
        self._end_successor()
        if process.poll() is None:
            process.terminate()
            # The second signal skips draining; sent too soon after the first, it would be the same one.
            self._wait(lambda: any(line["message"] == "shutting_down" for line in self._log), list, 1.0)
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in workers:
            if is_charon(pid):
                os.kill(pid, signal.SIGKILL)
        if self._reader is not None:
            self._reader.join(PATIENCE)
        if process.stdout is not None:
            process.stdout.close()
        self._process = None
        for left in self._socket_folder.glob("*"):
            left.unlink()
        if self._socket_folder.exists():
            self._socket_folder.rmdir()

    def _end_successor(self) -> None:
        """It is no child of ours: it is gone when it holds our pipe no more, which the log's reader waits for."""
        pid, self._successor = self._successor, None
        if pid is None:
            return
        before = len(self.log_lines("shutting_down"))
        try:
            os.kill(pid, signal.SIGTERM)
            self._wait(lambda: sum(line["message"] == "shutting_down" for line in self._log) > before, list, 1.0)
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            pass  # it has ended by itself, or the first was enough

    # -- processes ----------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """The supervisor."""
        if self._successor is not None:
            return self._successor
        return self._process.pid if self._process is not None else None

    def worker_pids(self) -> list[int]:
        """The workers that serve now, by slot."""
        pids = {line["worker"]: line["pid"] for line in self.log_lines() if line["message"] == "worker_started"}
        return [pids[slot] for slot in sorted(pids)]

    # -- the log ------------------------------------------------------------------------------------------------

    def log_lines(self, message: str | None = None) -> list[LogLine]:
        """The lines so far; those of one event only, when ``message`` names it."""
        with self._changed:
            return [line for line in self._log if message is None or line["message"] == message]

    def raw_log(self) -> list[str]:
        """The lines of standard output as they came, JSON or not."""
        with self._changed:
            return list(self._raw)

    def mark(self, listener: str | None = None) -> int:
        """The place in the log now, as ``since`` of :meth:`wait_for_event`.

        Workers write their lines a moment after the fact. With an HTTP ``listener``, all lines of earlier requests
        are waited for (one worker only).
        """
        if listener is not None:
            self._marks += 1
            path = f"/mark-{self._marks}"
            with socket.create_connection(("127.0.0.1", self.port(listener)), PATIENCE) as connection:
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
                while connection.recv(65_536):
                    pass
            self.wait_for_event("http_request", path=path)
        with self._changed:
            return len(self._log)

    def wait_for_event(self, message: str, *, timeout: float = PATIENCE, since: int = 0, **fields: Any) -> LogLine:
        """The first line of this event, after ``since``, whose fields are as given, once it has been written."""
        return self.wait_for_events(message, 1, timeout=timeout, since=since, **fields)[0]

    def wait_for_events(
        self, message: str, count: int, *, timeout: float = PATIENCE, since: int = 0, **fields: Any
    ) -> list[LogLine]:
        """At least ``count`` such lines."""

        def found() -> list[LogLine]:
            wanted = {"message": message, **fields}
            return [line for line in self._log[since:] if wanted.items() <= line.items()]

        lines = self._wait(lambda: len(found()) >= count, found, timeout)
        assert len(lines) >= count, f"{len(lines)} of {count} lines {message} {fields}:\n{self.report()}"
        return lines

    def wait_for_log(self, condition: Callable[[list[LogLine]], bool], timeout: float = PATIENCE) -> list[LogLine]:
        """All lines, once ``condition`` holds of them."""
        lines = self._wait(lambda: condition(self._log), lambda: list(self._log), timeout)
        assert condition(lines), f"the log does not get as it should:\n{self.report()}"
        return lines

    def _wait(
        self, condition: Callable[[], bool], result: Callable[[], list[LogLine]], timeout: float
    ) -> list[LogLine]:
        with self._changed:
            self._changed.wait_for(lambda: condition() or self._ended, timeout)
            return result()

    def _read_log(self, stream: IO[bytes]) -> None:
        for raw in stream:
            text = raw.decode("utf-8", "replace").rstrip("\n")
            try:
                line = json.loads(text)
            except ValueError:
                line = None
            with self._changed:
                self._raw.append(text)
                if isinstance(line, dict):
                    self._log.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def stderr(self) -> str:
        """What it has written to standard error."""
        return self.stderr_path.read_text(errors="replace") if self.stderr_path.exists() else ""

    def new_test(self) -> None:
        """A test begins: reports show the log from here on."""
        with self._changed:
            self._shown_from = len(self._raw)

    def report(self) -> str:
        """The log of the current test and standard error, for a failure report."""
        parts = self.raw_log()[self._shown_from :][-100:]
        if self.stderr():
            parts.append(f"stderr: {self.stderr()}")
        return "\n".join(parts)

    # -- addresses ----------------------------------------------------------------------------------------------

    def address(self, listener: str | None = None) -> str:
        """Where a listener listens, as the log says; that of the only one when no name is given."""
        starts = {line["listener"]: line["address"] for line in self.log_lines() if "_server_start" in line["message"]}
        if listener is None:
            assert len(starts) == 1, f"one of {sorted(starts)}"
            return str(next(iter(starts.values())))
        return str(starts[listener])

    def port(self, listener: str | None = None) -> int:
        """The port of a listener."""
        return int(self.address(listener).rpartition(":")[2])

    def port_when_ready(self) -> int:
        """The port of the one listener, once it serves, by its status: its log goes elsewhere."""

        def look() -> int:
            try:
                status = json.loads(self.admin("/api/status")[1])
            except (FileNotFoundError, ConnectionError):
                return 0  # it does not listen there yet
            return int(status["listeners"][0]["address"].rpartition(":")[2]) if status["ready"] else 0

        return eventually(look)

    # -- the admin socket ---------------------------------------------------------------------------------------

    def admin(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        """Status and body of a request to the admin socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(self.admin_socket))
            connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body

    def metrics(self) -> Metrics:
        """All samples now, as ``{(name, frozenset of label pairs): value}``; see :func:`sample` and :func:`total`."""
        status, body = self.admin("/metrics")
        assert status == 200
        return parse_metrics(body.decode())


def parse_metrics(text: str) -> Metrics:
    """The samples of an exposition."""
    return {
        (item.name, frozenset(item.labels.items())): item.value
        for family in text_string_to_metric_families(text)
        for item in family.samples
    }


def sample(metrics: Metrics, name: str, **labels: str) -> float:
    """The one sample with exactly these labels; 0 when there is none."""
    return metrics.get((name, frozenset(labels.items())), 0.0)


def total(metrics: Metrics, name: str, **labels: str) -> float:
    """The sum of the samples that have these labels, whatever others they have."""
    wanted = frozenset(labels.items())
    return sum(value for (key, have), value in metrics.items() if key == name and wanted <= have)


def is_charon(pid: int) -> bool:
    """Whether ``pid`` is a live process of Charon's (numbers are used again, so its command is looked at)."""
    try:
        return b"charon.daemon.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def descriptors(pid: int) -> list[str]:
    """What the open descriptors of a process point to."""
    folder = f"/proc/{pid}/fd"
    found = []
    for name in os.listdir(folder):
        try:
            found.append(os.readlink(f"{folder}/{name}"))
        except FileNotFoundError:
            pass  # closed between the listing and the look
    return found


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
