"""What is replaced is gone soon, and a run of changes is cleaned up after once."""

from __future__ import annotations

import weakref

from charon.base.litter import REST_SECONDS, Litter


class Circle:
    def __init__(self) -> None:
        self.itself = self


def test_what_was_replaced_is_collected_once_it_has_rested() -> None:
    litter = Litter()
    circle = Circle()
    gone = weakref.ref(circle)
    del circle
    litter.dropped(1000.0)
    litter.dropped(1000.0 + REST_SECONDS / 2)
    assert not litter.look(1000.0 + REST_SECONDS - 0.1)
    assert litter.look(1000.0 + REST_SECONDS)
    assert gone() is None
    assert not litter.look(2000.0), "nothing has been replaced since"
