"""Processes of ours: pinned, measured and stopped as whole trees, and never outliving the benchmark."""

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_PRCTL = ctypes.CDLL(None).prctl
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_TICK = 1.0 / os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))
ROOM = len(CORES) >= 4
"""Whether the load has cores of its own beside a peer with two workers."""
PEER_CORES = CORES[:1]
LOAD_CORES = CORES[2 if ROOM else 1 :] or CORES


class BenchError(Exception):
    """There can be no figure; the text says why."""


PROBLEMS = (BenchError, OSError, subprocess.SubprocessError)
"""What costs a figure, and not the run."""


def prepare() -> None:
    """Put this process and all load on the load cores, adopt orphans, leave cleanly on SIGTERM and SIGHUP."""
    _PRCTL(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.sched_setaffinity(0, LOAD_CORES)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGINT, _interrupted)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda caught, _frame: sys.exit(128 + caught))


def _interrupted(_number: int, _frame: object) -> None:
    """The first Ctrl-C ends the benchmark; a second one does not disturb the ending of what it started."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def load(*argvs: list[str]) -> list[str]:
    """Run programs that make load, side by side; what each printed, errors included. BenchError when one is not
    installed or failed. Whatever happens, none is left."""
    running: list[subprocess.Popen[str]] = []
    try:
        for argv in argvs:
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            running.append(subprocess.Popen(argv, preexec_fn=_end_with_us, **pipes))  # type: ignore[call-overload]
        said = [program.communicate()[0] for program in running]
    except FileNotFoundError as missing:
        raise BenchError(f"{missing.filename} is not installed") from missing
    finally:
        for program in running:
            program.kill()
            program.wait()
    for argv, program, words in zip(argvs, running, said, strict=True):
        if program.returncode:
            raise BenchError(f"{Path(argv[0]).name} ended with {program.returncode}: {words.strip()[-200:]}")
    return said


def _end_with_us() -> None:
    _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name; none when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def tree(root: int) -> list[int]:
    """``root`` and everything below it."""
    children: dict[int, list[int]] = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        if fields := _stat(int(entry)):
            children.setdefault(int(fields[1]), []).append(int(entry))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def peer_core_busy_seconds() -> float:
    """How long the peer's core was not idle since boot, whoever used it; stolen time counts."""
    lines = Path("/proc/stat").read_text().splitlines()
    line = next(line for line in lines if line.startswith(f"cpu{PEER_CORES[0]} "))
    ticks = [int(word) for word in line.split()[1:9]]  # user nice system idle iowait irq softirq steal
    return (sum(ticks) - ticks[3] - ticks[4]) * _TICK


class Child:
    """A started program with all that it starts; leaving the ``with`` block ends it."""

    def __init__(self, name: str, argv: list[str], folder: Path, cores: list[int], stdout: str = "stdout") -> None:
        def pin() -> None:
            _PRCTL(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            os.sched_setaffinity(0, cores)

        self.name = name
        self._stderr = folder / "stderr"
        with open(folder / stdout, "wb") as out, open(self._stderr, "wb") as err:
            try:  # in a session of its own: Ctrl-C is for us, and we end the program
                self._process = subprocess.Popen(
                    argv, cwd=folder, stdout=out, stderr=err, start_new_session=True, preexec_fn=pin
                )
            except FileNotFoundError as missing:
                raise BenchError(f"{name} is not installed ({argv[0]})") from missing

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_exception: object) -> None:
        """SIGTERM, ten seconds, then SIGKILL for whatever of the tree is left."""
        members = tree(self._process.pid)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            print(f"{self.name} did not stop within 10 s and was killed", file=sys.stderr)
            self._process.kill()
            self._process.wait()
        for pid in set(members) & set(tree(os.getpid())):  # orphans come to us, see prepare()
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def wait_ready(self, probe: Callable[[int], None], port: int) -> None:
        """Return when ``probe`` succeeds; BenchError when the program ends before, or takes over 15 s."""
        deadline = time.monotonic() + 15
        while True:
            try:
                return probe(port)
            except (OSError, BenchError) as problem:
                code = self._process.poll()
                if code is not None or time.monotonic() > deadline:
                    why = f"ended with {code}" if code is not None else f"not ready in 15 s ({problem})"
                    words = self._stderr.read_text(errors="replace").strip().splitlines()[-3:]
                    raise BenchError(f"{self.name} {why}: {' | '.join(words) or 'no message'}") from problem
            time.sleep(0.02)

    def cpu_seconds(self) -> float:
        """User and system time of the tree, and of what already ended in it."""
        return sum(int(ticks) for pid in tree(self._process.pid) for ticks in _stat(pid)[11:15]) * _TICK

    def pss_kb(self) -> float:
        """Proportional set size of the tree."""
        rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in tree(self._process.pid)]
        return float(sum(int(line.split()[1]) for text in rollups for line in text.splitlines() if line[:4] == "Pss:"))
