"""What the tests of certificates share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from charon.config.certificates import IssuePlan, MaterialSource

NOW = 1_800_000_000.0
DAY = 86_400.0

MakeSource = Callable[..., MaterialSource]


@pytest.fixture
def source(tmp_path: Path) -> MakeSource:
    """``source(service="web", make_authority=False, ...)``: the server's certificate in a folder of the test's own."""

    def make(service: str = "web", folder: Path = tmp_path / "certs", **plan: object) -> MaterialSource:
        planned = IssuePlan(str(folder), f"spiffe://example.org/{service}", make_authority=True)
        return MaterialSource(
            cert_file=str(folder / "server-cert.pem"),
            key_file=str(folder / "server-key.pem"),
            ca_file=str(folder / "ca-cert.pem"),
            plan=replace(planned, **plan),  # type: ignore[arg-type]
        )

    return make
