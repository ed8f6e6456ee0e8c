"""Greenlets have names, so that a listing says what each is doing."""

from __future__ import annotations

from gevent.event import Event as Flag

from charon.net.tasks import names, rename, spawn


def test_a_greenlet_is_listed_under_its_name_while_it_lives() -> None:
    stop = Flag()
    waiting = spawn("waiting for the test", stop.wait)
    assert "waiting for the test" in names()
    stop.set()
    waiting.join()
    assert "waiting for the test" not in names()


def test_arguments_and_result_pass_through() -> None:
    assert spawn("sum", sum, [1, 2]).get() == 3


def test_a_running_greenlet_can_take_another_name() -> None:
    stop = Flag()

    def work() -> None:
        rename("second name")
        stop.wait()

    working = spawn("first name", work)
    working.join(timeout=0)
    while "second name" not in names():
        working.join(timeout=0.001)
    assert "first name" not in names()
    stop.set()
    working.join()


def test_renaming_outside_of_a_greenlet_does_nothing() -> None:
    before = names()
    rename("nobody")
    assert names() == before
