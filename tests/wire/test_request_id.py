"""X-Request-Id: a client's name for its request is kept if it can be one, and never more than one goes on."""

from __future__ import annotations

import pytest

from charon.wire.request_id import identified, line, without

OTHER = (b"Accept", b"*/*")


def fresh() -> bytes:
    return b"made"


@pytest.mark.parametrize("name", [b"x", b"7f3c-11", b"a" * 128, b"abc.def_~+/=:@-"])
def test_a_good_name_is_kept_as_it_is(name: bytes) -> None:
    fields = [OTHER, (b"x-request-ID", name)]
    assert identified(fields, fresh) == (name, fields)


@pytest.mark.parametrize("name", [b"", b"a" * 129, b"two words", b'say "x"', b"caf\xe9", b"a,b", b"{}", b"a\tb"])
def test_a_name_that_could_be_mistaken_is_replaced(name: bytes) -> None:
    assert identified([(b"X-Request-Id", name), OTHER], fresh) == (b"made", [OTHER, (b"X-Request-Id", b"made")])


def test_two_names_are_none() -> None:
    fields = [(b"X-Request-Id", b"one"), OTHER, (b"x-request-id", b"one")]
    assert identified(fields, fresh) == (b"made", [OTHER, (b"X-Request-Id", b"made")])
    assert without(fields) == [OTHER]


def test_a_request_without_one_gets_one() -> None:
    assert identified([OTHER], fresh) == (b"made", [OTHER, (b"X-Request-Id", b"made")])
    assert line(b"made") == b"X-Request-Id: made\r\n"
