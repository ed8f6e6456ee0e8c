"""Durations and sizes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon.base.units import format_duration, format_size, in_words, parse_duration, parse_size, quoted


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("30s", 30),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        ("2d", 172800),
        ("10us", 1e-5),
        ("30", 30),
        ("0.5", 0.5),
        (" 3s ", 3),
        (7, 7),
        (0.25, 0.25),
        ("0", 0),
        ("365d", 31536000),
    ],
)
def test_a_duration_is_seconds(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "banana", "5 m", "-1s", "1h-30m", "30S", "s", "1e3", "inf", "nan", "366d", "9" * 40, "٣s", "1h30", True]
    + [float("nan"), float("inf"), -1, 10**400, "1s\n2s"],
)
def test_what_is_not_a_duration_is_refused(text: str | float) -> None:
    with pytest.raises(ValueError, match=r"duration|too long"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("64KiB", 65536), ("10MB", 10_000_000), ("10 MB", 10_000_000), ("1.5KiB", 1536), ("0", 0), ("512", 512)]
    + [("1GiB", 2**30), ("3b", 3), (4096, 4096), ("2tib", 2**41)],
)
def test_a_size_is_bytes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "10M", "64k", "-1", -1, "1.5", "0.3KB2", "0.0001KB", "KiB", "99999999TiB", True, "1e6"]
)
def test_what_is_not_a_size_is_refused(text: str | int) -> None:
    with pytest.raises(ValueError, match=r"size|whole number of bytes|too large"):
        parse_size(text)


def test_a_refusal_says_what_is_allowed_and_quotes_on_one_line() -> None:
    with pytest.raises(ValueError, match="250ms, 30s, 5m or 1h30m") as refused:
        parse_duration("a\nb\x1b" + "x" * 500)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 200


@given(st.integers(0, 365 * 86400 * 1_000_000))
def test_a_duration_reads_back_as_it_was_written(micros: int) -> None:
    assert parse_duration(format_duration(micros / 1e6)) == pytest.approx(micros / 1e6, abs=1e-6)


@given(st.integers(0, 2**63 - 1))
def test_a_size_reads_back_as_it_was_written(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.25, "250ms"), (90, "1m30s"), (5400, "1h30m"), (1.5, "1.5s")]
)
def test_a_duration_is_written_in_the_usual_form(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.text(max_size=30))
def test_nothing_but_a_refusal_comes_of_any_text(text: str) -> None:
    for parse in (parse_duration, parse_size):
        try:
            assert parse(text) >= 0
        except ValueError as refused:
            assert str(refused)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "1 second"), (59.9, "59 seconds"), (119, "119 seconds"), (120, "2 minutes"), (7199, "119 minutes")]
    + [(7200, "2 hours"), (172_799, "47 hours"), (172_800, "2 days"), (3.2e8, "3703 days")],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("http://user:pass@host/x", "'http://***@host/x'"),
        ("https://token@host", "'https://***@host'"),
        ("redis://:pass@host and http://a:b@c", "'redis://***@host and http://***@c'"),
        ("http://host/@x", "'http://host/@x'"),
        ("user:pass@host", "'user:pass@host'"),
    ],
)
def test_a_quotation_has_no_password_of_a_url(value: str, shown: str) -> None:
    assert quoted(value) == shown
