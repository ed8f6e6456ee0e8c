"""Upgrade in place, seen from the program that is to be replaced: it starts the new one, hands its listening sockets
on, and goes on serving until the new one serves as well. One that fails to start changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Final

import gevent
from gevent.event import AsyncResult
from gevent.event import Event as Flag

from charon.daemon.channel import MAX_DESCRIPTORS, Channel, ChannelClosed
from charon.daemon.inheritance import HANDOVER, stored_name
from charon.daemon.listeners import Sockets
from charon.net.tasks import spawn

READY_SECONDS: Final = 60.0
"""How long the new program may take until it serves."""

LAUNCHER: Final = "CHARON_LAUNCHER"
"""Names the program that starts the version of Charon to be used next, where that may be in another folder than this
one (packages have it so); without it the new program is started as this one was."""


class Successor:
    """The new program, from its start until this one has ended."""

    def __init__(self, config: str, environment: Mapping[str, str]) -> None:
        """``environment`` is what it gets beside the present one."""
        self._channel, theirs = Channel.pair()
        with theirs:
            fd = theirs.fileno()
            launcher = os.environ.get(LAUNCHER)
            program = [launcher] if launcher else [sys.executable, "-P", "-m", "charon"]
            command = [*program, "run", "--config", config]
            env = {**os.environ, **environment, HANDOVER: str(fd)}
            self._process = subprocess.Popen(command, pass_fds=[fd], stdin=subprocess.DEVNULL, env=env)  # noqa: S603 - us
        self.pid = self._process.pid

    def __repr__(self) -> str:
        return f"<Successor pid={self.pid}>"

    def prepare(self, sockets: Sockets, admin: int, given_up: Flag) -> str | None:
        """Hand ``sockets`` and the admin socket on, and wait until it serves. Returns why it does not, or None.

        One that does not is ended, as is one that is not wanted any more: ``given_up`` is set.
        """
        outcome: AsyncResult[str | None] = AsyncResult()
        waiter = spawn("successor", self._wait_for_end, outcome)
        talker = spawn("handover", self._hand_on, sockets, admin, outcome)
        gevent.wait([outcome, given_up], timeout=READY_SECONDS, count=1)
        gevent.killall([waiter, talker])
        problem: str | None = f"it was not ready after {READY_SECONDS:g} s"
        if outcome.ready():
            problem = outcome.value
        elif given_up.is_set():
            problem = "Charon was told to stop meanwhile"
        if problem is not None:
            self._process.kill()
            self._process.wait()
            self._channel.close()
        return problem

    def _wait_for_end(self, outcome: AsyncResult[str | None]) -> None:
        code = self._process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        outcome.set(f"it ended with {how}; its own words are above")

    def _hand_on(self, sockets: Sockets, admin: int, outcome: AsyncResult[str | None]) -> None:
        all_of_them = [(stored_name(key), sock.fileno()) for key, group in sockets.items() for sock in group]
        try:
            for start in range(0, len(all_of_them), MAX_DESCRIPTORS):
                some = all_of_them[start : start + MAX_DESCRIPTORS]
                message = {"type": "sockets", "names": [name for name, _ in some]}
                self._channel.send(message, tuple(fd for _, fd in some))
            self._channel.send({"type": "rest", "pid": os.getpid()}, (admin,))
            self._channel.receive()
        except ChannelClosed:
            return  # it is ending, which its waiter sees
        outcome.set(None)

    def take_over(self) -> None:
        """Tell it that the admin socket is its own from now on."""
        self._tell({"type": "yours"})

    def draining(self, connections: int) -> None:
        """Tell it what is left to finish here."""
        self._tell({"type": "draining", "connections": connections})

    def _tell(self, message: dict[str, object]) -> None:
        try:
            self._channel.send(message)
        except ChannelClosed:
            pass  # it has died, and there is no way back: this program finishes what it has
