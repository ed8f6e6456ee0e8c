"""The connection loop in any order of events: in whatever pieces requests come, each is answered once, in its turn."""

from __future__ import annotations

from binascii import crc32
from collections import deque
from itertools import count

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.conftest import StartCharon
from tests.harness.backends import Request, ScriptedBackend, chunked, http_response
from tests.harness.client import RawClient

HEAD = "{method} /{number}?size={size} HTTP/1.1\r\nHost: machine.example\r\n{more}\r\n"
BAD = b"GET /bad HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"
RUNS = 40
DEEPEST = 6
"""Requests that may wait at once."""


def answer(request: Request) -> bytes:
    """Says which request it was, and what its body was."""
    return http_response(200, f"{request.method} {request.target} {crc32(request.body)}".encode())


class Machine(RuleBasedStateMachine):
    """One client at a time, which sends by pieces, pipelines, leaves in the middle, and says what is wrong."""

    port = 0
    backend: ScriptedBackend
    numbers = count(1)  # over all runs of the machine, so that no request is like another

    def __init__(self) -> None:
        super().__init__()
        self.client = RawClient(self.port)
        self.unsent = b""
        self.ends: deque[tuple[int, bytes | None]] = deque()  # where each request ends, and its answer; None: refused
        self.written = 0
        self.sent = 0
        self.last: str | None = None  # why nothing may follow

    def teardown(self) -> None:
        self.client.close()

    def add(self, raw: bytes, expected: bytes | None) -> None:
        self.unsent += raw
        self.written += len(raw)
        self.ends.append((self.written, expected))

    def anew(self) -> None:
        self.client = RawClient(self.port)
        self.unsent, self.written, self.sent, self.last = b"", 0, 0, None
        self.ends.clear()

    def may_say_more(self) -> bool:
        return self.last is None and len(self.ends) < DEEPEST

    def is_answered(self) -> bool:
        """Whether an answer is due: the whole of its request has been sent."""
        return bool(self.ends) and self.ends[0][0] <= self.sent

    @initialize()
    def begins(self) -> None:
        """With a request that is answered, so that no run of the machine is an empty one."""
        self.request("GET", 100, in_chunks=False, closes=False)
        self.send(1.0)
        self.read()

    @precondition(may_say_more)
    @rule(
        method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
        size=st.sampled_from([0, 0, 1, 100, 5000]),
        in_chunks=st.booleans(),
        closes=st.sampled_from([False, False, False, False, True]),
    )
    def request(self, method: str, size: int, in_chunks: bool, closes: bool) -> None:
        number = next(self.numbers)
        body = bytes((number + place) & 0xFF for place in range(size))
        if in_chunks and body:
            middle = size // 2
            more, raw = "Transfer-Encoding: chunked\r\n", chunked(*filter(None, (body[:middle], body[middle:])))
        else:
            more, raw = (f"Content-Length: {size}\r\n" if size else ""), body
        if closes:
            more += "Connection: close\r\n"
            self.last = "close"
        head = HEAD.format(method=method, number=number, size=size, more=more).encode()
        self.add(head + raw, f"{method} /{number}?size={size} {crc32(body)}".encode())

    @precondition(may_say_more)
    @rule()
    def bad_request(self) -> None:
        self.add(BAD, None)
        self.last = "bad"

    @precondition(lambda self: self.unsent)
    @rule(share=st.sampled_from([0.01, 0.3, 0.7, 1.0, 1.0]))
    def send(self, share: float) -> None:
        size = max(1, int(len(self.unsent) * share))
        self.client.send(self.unsent[:size])
        self.unsent = self.unsent[size:]
        self.sent += size

    @precondition(is_answered)
    @rule()
    def read(self) -> None:
        _, expected = self.ends.popleft()
        response = self.client.read_response()
        if expected is None:
            assert (response.status, response.error) == (400, "bad_host")
        else:
            assert (response.status, response.body) == (200, expected)
        if self.last is not None and not self.ends:
            assert self.client.ended(), "nothing follows the last answer"
            self.client.close()
            self.anew()

    @rule(reset=st.booleans())
    def leaves(self, reset: bool) -> None:
        """Whatever is under way."""
        self.client.reset() if reset else self.client.close()
        self.anew()

    @precondition(lambda self: self.ends and not self.unsent)
    @rule()
    def half_closes(self) -> None:
        """A client that has said all gets all answers."""
        self.client.half_close()
        self.last = self.last or "half"
        for _ in range(len(self.ends)):
            self.read()

    @invariant()
    def the_backend_has_seen_nothing_but_what_was_said(self) -> None:
        self.backend.check()
        for request in self.backend.requests:
            assert request.target != "/bad"


def test_connection_loop(start_charon: StartCharon) -> None:
    with ScriptedBackend() as backend:
        backend.serve(answer)
        charon = start_charon({"target_service_addr": backend.address, "logging": {"access_log": False}})
        machine = type("Connections", (Machine,), {"port": charon.port(), "backend": backend})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=RUNS, stateful_step_count=30, deadline=None, derandomize=True, database=None,
                phases=[Phase.generate], suppress_health_check=list(HealthCheck),
            ),
        )  # fmt: skip
        seen = [request.target for request in backend.requests]
        assert len(seen) == len(set(seen)), "a request was delivered twice"
        assert len(seen) >= RUNS, "each run begins with a request"
        for request in backend.requests:
            size, number = int(request.target.partition("size=")[2]), int(request.target[1:].partition("?")[0])
            assert request.body == bytes((number + place) & 0xFF for place in range(size)), request.target
