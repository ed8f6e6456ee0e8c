"""Who has which row."""

from __future__ import annotations

from charon.shared.rows import NO_ROW, Rows


def test_a_key_keeps_its_row() -> None:
    rows: Rows[str] = Rows(3)
    assert rows.assign("a") == (0, False)
    assert rows.assign("b") == (1, False)
    assert rows.assign("a") == (0, False)
    rows.release("c")
    assert rows.assign("b") == (1, False)
    assert (rows.row("a"), rows.row("z"), len(rows)) == (0, None, 2)
    assert dict(rows.items()) == {"a": 0, "b": 1}


def test_a_row_that_was_given_back_is_used_as_late_as_possible_and_has_to_be_cleared() -> None:
    rows: Rows[str] = Rows(3)
    for key in "ab":
        rows.assign(key)
        rows.release(key)
    assert rows.assign("c") == (2, False)
    assert rows.assign("d") == (0, True)
    assert rows.assign("e") == (1, True)


def test_one_too_many_has_none_until_one_is_free() -> None:
    rows: Rows[str] = Rows(2)
    for key in "ab":
        rows.assign(key)
    assert rows.assign("c") == (NO_ROW, False)
    assert rows.row("c") is None
    rows.release("b")
    assert rows.assign("c") == (1, True)
