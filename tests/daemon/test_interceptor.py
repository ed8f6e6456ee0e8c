"""What the interceptor has the kernel do, with no workers but those that a test says there are."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from charon.config.interception import InterceptSpec, OutboundSpec
from charon.config.settings import Settings
from charon.daemon.interceptor import Interceptor
from charon.intercept import kernel, rules
from charon.telemetry.events import EventLog
from charon.telemetry.exposition import Totals
from charon.telemetry.sink import LogSink
from tests.harness.namespaces import Host, need_interception, two_hosts

SPEC = InterceptSpec("charon", 0x6368, True, 3600.0, OutboundSpec("out"))


def settings(spec: InterceptSpec | None) -> Settings:
    return cast(Settings, SimpleNamespace(intercept=spec))


@pytest.fixture
def host() -> Iterator[Host]:
    need_interception()
    with two_hosts() as (host, _):
        yield host


def in_force() -> bool:
    return rules.in_force(kernel.listing("charon") or "set alive")


def test_rules_are_in_force_at_once_where_anybody_serves_and_not_where_nobody_does(host: Host) -> None:
    serving = 1
    events = EventLog(LogSink(None), "error")
    interceptor = Interceptor(events, Totals(), lambda: {"out": "[::]:15001"}, lambda: serving)
    with host.inside():
        interceptor.follow(settings(SPEC))
        assert in_force()
        interceptor.down()
        interceptor.up()
        assert in_force()
        serving = 0  # each worker has died: what is brought here would wait for nobody
        interceptor.down()
        interceptor.up()
        assert not in_force()
        assert interceptor.show()["difference"].startswith("the rules are there, but not in force")
        serving = 1
        interceptor.up()
        assert in_force() and interceptor.show()["difference"] is None
        shown = interceptor.status()
        assert shown is not None
        assert shown["connections"] == {"outbound": {"carried": 0, "passthrough": 0, "refused": 0}}
        interceptor.follow(settings(None))
        interceptor.release(handed_on=False)
        interceptor.stop()
        assert kernel.listing("charon") is None
