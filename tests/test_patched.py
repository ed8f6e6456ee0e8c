"""Discovery is tested in a monkey-patched process of its own, as it runs in one (see ``pytest_ignore_collect``)."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import PATCHED


def test_discovery() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(PATCHED)]
    done = subprocess.run(command, cwd=PATCHED.parent.parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
