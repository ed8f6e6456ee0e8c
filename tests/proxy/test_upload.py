"""How long an upload waits for its client: by the pause, and by the average."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from charon.base.errors import CLIENT_TOO_SLOW, ExchangeFailed
from charon.net.deadlines import NEVER
from charon.net.stream import DeadlineExceeded
from charon.policy.pace import GRACE
from charon.proxy import upload
from charon.proxy.upload import Upload

STALL = 60.0


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Client:
    """A body that comes in pieces of 100 bytes, ``every`` so many seconds, and the stream it comes from."""

    def __init__(self, time: Time, every: float, pieces: int) -> None:
        self.time = time
        self.every = every
        self.pieces = pieces
        self.waits: list[float] = []
        self.done = False
        self.size = 0
        self.cutoff = NEVER
        self.stream = self

    def flow_to(self, target: object) -> None:
        """It is no body that could be spliced."""

    def next(self, patience: float) -> bytes:
        self.waits.append(patience)
        if patience < self.every:
            self.time.now += patience
            raise DeadlineExceeded
        self.time.now += self.every
        self.pieces -= 1
        self.done = self.pieces == 0
        return b"x" * 100


class Upstream:
    """Takes everything, each write in ``seconds``."""

    def __init__(self, time: Time, seconds: float = 0.0) -> None:
        self.time = time
        self.seconds = seconds
        self.got = b""
        self.error: Exception | None = None

    def write(self, data: bytes, patience: float) -> None:
        self.time.now += self.seconds
        self.got += data

    def rearm(self, patience: float) -> None:
        pass

    def interrupt(self, error: Exception) -> None:
        self.error = error


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(upload, "monotonic", time)
    return time


def run(body: Client, upstream: Upstream, rate: int | None) -> Upload:
    arguments: dict[str, Any] = {"chunked": False, "limit": None, "idle": 90.0, "stall": STALL, "rate": rate}
    made = Upload(body, upstream, **arguments, patience=10.0, keep=0)  # type: ignore[arg-type]
    gevent.sleep(0)
    return made


def test_without_a_rate_only_the_pause_counts(time: Time) -> None:
    body, upstream = Client(time, every=STALL, pieces=10), Upstream(time)
    assert run(body, upstream, None).done
    assert set(body.waits) == {STALL}


def test_a_client_below_the_rate_is_given_up_after_the_grace(time: Time) -> None:
    body, upstream = Client(time, every=5.0, pieces=1000), Upstream(time)
    began = time.now
    assert not run(body, upstream, 1000).done
    assert isinstance(upstream.error, ExchangeFailed) and upstream.error.reason is CLIENT_TOO_SLOW
    assert time.now - began == pytest.approx(5.0 + GRACE + len(upstream.got) / 1000)


def test_a_client_at_the_rate_goes_on(time: Time) -> None:
    body, upstream = Client(time, every=1.0, pieces=100), Upstream(time)
    assert run(body, upstream, 100).done
    assert len(upstream.got) == 10_000 and upstream.error is None


def test_the_first_byte_may_take_as_long_as_any(time: Time) -> None:
    """Its client may be waiting for a 100, which is the endpoint's to send."""
    body, upstream = Client(time, every=50.0, pieces=1), Upstream(time)
    assert run(body, upstream, 1_000_000).done


def test_an_endpoint_that_takes_its_time_is_not_the_clients_fault(time: Time) -> None:
    body, upstream = Client(time, every=0.0, pieces=20), Upstream(time, seconds=30.0)
    assert run(body, upstream, 1000).done
