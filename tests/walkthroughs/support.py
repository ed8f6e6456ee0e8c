"""What a person types at a shell, with the ports of this run in place of the documented ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def shell(command: str, cwd: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a line of shell. ``python`` is the one that runs the tests."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # A proxy of the machine's own must not come between; nor its person's settings of curl.
    environ = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    return subprocess.run(
        command,
        shell=True,
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=20,
        env={**environ, "PATH": path, "CURL_HOME": "/nonexistent"},
    )


def typed(command: str, cwd: Path | None = None, stdin: str = "") -> str:
    """The output of a line of shell that succeeds."""
    done = shell(command, cwd, stdin)
    assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout
