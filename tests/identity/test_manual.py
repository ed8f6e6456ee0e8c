"""docs/certificates.md: its configurations are valid, and its commands work, in their order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from charon.config.load import load_config
from tests.identity.support import openssl

MANUAL = (Path(__file__).resolve().parents[2] / "docs/certificates.md").read_text(encoding="utf-8")
CONFIGS = re.findall(r"```yaml\n# (\w+\.yaml).*?\n(.*?)```", MANUAL, re.DOTALL)
COMMANDS = re.findall(r"```bash\n(.*?)```", MANUAL, re.DOTALL)


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which every command was run."""
    folder = tmp_path_factory.mktemp("manual")
    for name, text in CONFIGS:
        (folder / name).write_text(text)
    script = 'charon() { "$PYTHON" -m charon "$@"; }\nset -eu\n' + "".join(COMMANDS)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_command_works(walked: Path) -> None:
    assert len(COMMANDS) == 11
    root = walked / "ca/ca-cert.pem"
    assert root.read_text().count("BEGIN") == 1, "the old root is gone"
    for cert in ("certs/server-cert.pem", "ca/http-backend/server-cert.pem", "ca/client-cert.pem"):
        assert openssl("verify", "-x509_strict", "-CAfile", str(root), str(walked / cert)).endswith("OK\n")


def test_every_configuration_is_valid(walked: Path) -> None:
    assert [name for name, _ in CONFIGS] == ["inbound.yaml", "outbound.yaml", "other.yaml"]
    for name, _ in CONFIGS:
        assert load_config(walked / name, {}).listeners
