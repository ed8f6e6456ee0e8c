"""Discovery is tested in a monkey-patched process of its own, as it runs in one (see ``pytest_ignore_collect``)."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import PATCHED


def test_discovery() -> None:
    # Plugins of other packages import ssl, and must not do so before it is patched.
    alone = [f"-pno:{name}" for name in ("cacheprovider", "schemathesis", "anyio")]
    command = [sys.executable, "-m", "pytest", "-q", *alone, str(PATCHED)]
    done = subprocess.run(command, cwd=PATCHED.parent.parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
