"""What fuzzing has once reached stays right: every saved input, in every target; and what is wrong is found."""

from __future__ import annotations

from pathlib import Path

import pytest

import scripts.fuzzlib.targets  # noqa: F401 - enters all targets into the register
from scripts.fuzzlib import corpus
from scripts.fuzzlib.runner import plain
from scripts.fuzzlib.session import Session
from scripts.fuzzlib.target import TARGETS, Target, expect


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_saved_inputs(target: Target) -> None:
    saved = corpus.load(target.name)
    assert saved, "nothing is saved: scripts/fuzz TARGET --save"
    for data in (*saved, *target.seeds()):
        target.check(data)


def check_brackets(data: bytes) -> object:
    """A target with a fault: three closing brackets in a row."""
    expect(b")))" not in data, "three of {}", ")")
    return data.count(b")"), data.count(b"(")


PLANTED = Target("planted", "a fault", check_brackets, lambda: [b"(a)"], (b"(", b")"), largest=200)


def test_a_planted_fault_is_found_and_found_again() -> None:
    sessions = [Session(PLANTED, inputs=5000) for _ in range(2)]
    pools = [plain(PLANTED, session, seed=7) for session in sessions]
    assert pools[0] == pools[1], "the same seed makes the same inputs"
    for session in sessions:
        assert session.result.inputs == 5000
        ((text, data),) = session.result.findings
        assert "three of )" in text and ")))" in data


def test_what_takes_long_is_told() -> None:
    def check(data: bytes) -> object:
        return sum(range(len(data) * 100_000))

    slow = Target("slow", "slow", check, lambda: [b"a" * 8], (b"a",), slow=0.000_001)
    session = Session(slow, inputs=1)
    session.run(b"a" * 8)
    assert session.result.findings[0][0].startswith("slow: ")


def test_a_corpus_is_as_small_as_what_it_reaches() -> None:
    target = TARGETS["proxy"]
    same = [b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n", b"PROXY TCP4 1.1.1.1 2.2.2.2 1 3\r\n"]
    assert corpus.minimised(target, same) == same[:1]
    assert set(corpus.minimised(target, [*same, b"GET / HTTP/1.1\r\n"])) == {same[0], b"GET / HTTP/1.1\r\n"}
