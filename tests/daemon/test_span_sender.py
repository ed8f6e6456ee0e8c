"""The way to one collector: batches, tries, and what is dropped when it does not keep up."""

from __future__ import annotations

from collections.abc import Sequence
from queue import Queue

import pytest

from charon.daemon.span_sender import BATCH, CAPACITY, TRIES, Counts, Refused, SpanSender, Unreachable
from charon.telemetry.spans import Span
from tests.harness import PATIENCE

SPAN = Span("1", "1", "", False, "", True, "GET", 1, 2, False, {})


class Peer:
    """What a sender sends to: each batch is announced in ``batches`` and waits for its ``answers``, errors or None."""

    def __init__(self) -> None:
        self.batches: Queue[list[str]] = Queue()
        self.answers: Queue[Exception | None] = Queue()

    def __call__(self, batch: Sequence[Span]) -> None:
        self.batches.put([span.name for span in batch])
        answer = self.answers.get(timeout=PATIENCE)
        if answer is not None:
            raise answer


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
def sender(peer: Peer) -> SpanSender:
    sender = SpanSender("test", peer, pause=0.0, linger=0.0)
    sender.start()
    return sender


def named(*names: object) -> list[Span]:
    return [SPAN._replace(name=str(name)) for name in names]


def test_what_is_taken_is_counted(sender: SpanSender, peer: Peer) -> None:
    sender.put(named(1, 2))
    peer.answers.put(None)
    assert peer.batches.get(timeout=PATIENCE) == ["1", "2"]
    sender.stop()
    sender.join(PATIENCE)
    assert sender.take_counts() == Counts(exported=2)


def test_what_is_refused_is_not_sent_again(sender: SpanSender, peer: Peer) -> None:
    sender.put(named(1))
    assert peer.batches.get(timeout=PATIENCE) == ["1"]
    peer.answers.put(Refused("no"))
    sender.put(named(2))
    assert peer.batches.get(timeout=PATIENCE) == ["2"]
    peer.answers.put(None)
    sender.stop()
    sender.join(PATIENCE)
    assert sender.take_counts() == Counts(1, {"collector_refused": 1}, "no")  # type: ignore[arg-type]


def test_a_collector_that_is_away_for_a_moment_loses_nothing(sender: SpanSender, peer: Peer) -> None:
    sender.put(named(1))
    peer.answers.put(Unreachable("away"))
    peer.answers.put(None)
    assert [peer.batches.get(timeout=PATIENCE) for _ in range(2)] == [["1"], ["1"]]
    sender.stop()
    sender.join(PATIENCE)
    assert sender.take_counts() == Counts(exported=1, error="away")


def test_a_batch_is_given_up_after_some_tries(sender: SpanSender, peer: Peer) -> None:
    sender.put(named(1))
    for _ in range(TRIES):
        peer.answers.put(Unreachable("away"))
    assert [peer.batches.get(timeout=PATIENCE) for _ in range(TRIES)] == [["1"]] * TRIES
    sender.stop()
    sender.join(PATIENCE)
    assert sender.take_counts() == Counts(dropped={"collector_unreachable": 1}, error="away")  # type: ignore[arg-type]


def test_the_oldest_make_room_and_batches_are_bounded(sender: SpanSender, peer: Peer) -> None:
    sender.put(named("first"))
    assert peer.batches.get(timeout=PATIENCE) == ["first"], "under way, and waiting for its answer"
    sender.put(named(*range(CAPACITY)))
    sender.put(named(CAPACITY, CAPACITY + 1))
    assert sender.take_counts() == Counts(dropped={"exporter_queue_full": 2})  # type: ignore[arg-type]
    for _ in range(1 + CAPACITY // BATCH):
        peer.answers.put(None)
    batch = peer.batches.get(timeout=PATIENCE)
    assert (batch[0], len(batch)) == ("2", BATCH)
    sender.stop()
    sender.join(PATIENCE)
    assert sender.take_counts() == Counts(exported=1 + CAPACITY)


def test_at_the_end_each_batch_is_tried_once_more_and_no_longer(sender: SpanSender, peer: Peer) -> None:
    sender.put(named(*range(BATCH + 1)))
    assert len(peer.batches.get(timeout=PATIENCE)) == BATCH
    sender.stop()
    peer.answers.put(Unreachable("away"))
    peer.answers.put(None)
    sender.join(PATIENCE)
    assert sender.take_counts() == Counts(1, {"collector_unreachable": BATCH}, "away")  # type: ignore[arg-type]


def test_what_hangs_at_the_end_is_given_up(sender: SpanSender, peer: Peer) -> None:
    sender.put(named("stuck"))
    peer.batches.get(timeout=PATIENCE)
    sender.put(named(1, 2))
    sender.stop()
    sender.join(0.0)
    assert sender.take_counts() == Counts(dropped={"shutdown": 3})  # type: ignore[arg-type]
    peer.answers.put(None)
    sender.join(PATIENCE)
    assert sender.take_counts() == Counts(), "nothing is counted twice"
