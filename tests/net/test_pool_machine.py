"""The pool in any order of events: what it hands out is the newest quiet connection, and nothing is lost or kept."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from charon.net.pool import MAX_IDLE_SECONDS, Pool
from charon.net.stream import Stream
from tests.net.support import Wires

LIMIT = 4


class Machine(RuleBasedStateMachine):
    """Connections come back, are taken, age, and are spoiled by their upstream while they wait."""

    def __init__(self) -> None:
        super().__init__()
        self.wires = Wires()
        self.pool = Pool(LIMIT)
        self.idle: list[Stream] = []  # the oldest first
        self.spoiled: set[Stream] = set()
        self.lent: list[Stream] = []
        self.gone: list[Stream] = []
        self.peers: dict[Stream, object] = {}
        self.closed = False

    def teardown(self) -> None:
        self.wires.close()

    def go(self, streams: list[Stream]) -> None:
        self.gone += streams
        self.idle = [stream for stream in self.idle if stream not in streams]

    @initialize(count=st.integers(0, LIMIT))
    def begin(self, count: int) -> None:
        for _ in range(count):
            self.dial()
            self.put(0)

    @precondition(lambda self: len(self.lent) < 3)
    @rule()
    def dial(self) -> None:
        stream, peer = self.wires.unix()
        self.peers[stream] = peer
        self.lent.append(stream)

    @precondition(lambda self: self.lent)
    @rule(which=st.integers(0, 99))
    def put(self, which: int) -> None:
        stream = self.lent.pop(which % len(self.lent))
        room = not self.closed and len(self.idle) < LIMIT
        self.pool.put(stream)
        (self.idle if room else self.gone).append(stream)

    @rule()
    def take(self) -> None:
        stream = self.pool.take()
        quiet = [other for other in self.idle if other not in self.spoiled]
        assert stream is (quiet[-1] if quiet else None)
        newer = self.idle[self.idle.index(stream) + 1 :] if stream is not None else list(self.idle)
        self.go(newer)
        if stream is not None:
            self.idle.remove(stream)
            self.lent.append(stream)

    @precondition(lambda self: self.idle)
    @rule(which=st.integers(0, 99), how=st.sampled_from(["close", "speak"]))
    def spoil(self, which: int, how: str) -> None:
        """Its upstream closes it, or says something that nobody has asked for."""
        stream = self.idle[which % len(self.idle)]
        if stream not in self.spoiled:
            peer = self.peers[stream]
            peer.close() if how == "close" else peer.sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            self.spoiled.add(stream)

    @precondition(lambda self: self.idle)
    @rule(which=st.integers(0, 99), seconds=st.sampled_from([5.0, 29.0, 31.0, MAX_IDLE_SECONDS + 1]))
    def age(self, which: int, seconds: float) -> None:
        self.idle[which % len(self.idle)].idle_since -= seconds

    @precondition(lambda self: self.idle)
    @rule(idle_seconds=st.sampled_from([30.0, 3600.0]))
    def sweep(self, idle_seconds: float) -> None:
        now = max(stream.idle_since for stream in self.idle)
        oldest = now - min(idle_seconds, MAX_IDLE_SECONDS)
        old = [stream for stream in self.idle if stream in self.spoiled or stream.idle_since <= oldest]
        self.pool.sweep(now, idle_seconds)
        self.go(old)

    @rule()
    def close_idle(self) -> None:
        self.pool.close_idle()
        self.go(list(self.idle))

    @precondition(lambda self: len(self.gone) > 2)
    @rule()
    def endpoint_leaves(self) -> None:
        self.pool.close()
        self.go(list(self.idle))
        self.closed = True

    @invariant()
    def nothing_is_lost_and_nothing_is_kept(self) -> None:
        assert len(self.pool) == len(self.idle) <= LIMIT
        assert all(stream.closed for stream in self.gone)
        assert not any(stream.closed for stream in [*self.idle, *self.lent])


Machine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # a failure is short enough, and making it shorter takes long
    suppress_health_check=[HealthCheck.too_slow],
)
TestMachine = Machine.TestCase
