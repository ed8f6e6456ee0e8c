"""How long a body is: the decision, as a table, with its refusals (RFC 9112 6). Pure functions.

Requests (``CL`` Content-Length, ``TE`` Transfer-Encoding; the first line that fits decides):

=====================================================  ===========================================================
fields                                                 decision
=====================================================  ===========================================================
CL repeated, even with equal values                    refuse 400: recipients differ on which one counts (6.3 no. 5)
CL not 1 to 18 digits (``+5``, ``5, 5``, empty, ...)   refuse 400 (6.3 no. 5)
TE in HTTP/1.0                                         refuse 400: faulty framing (6.1)
TE and CL                                              refuse 400: the classic smuggling pair (6.1, 6.3 no. 3)
TE repeated                                            refuse 400: recipients differ on first, last or joined
TE malformed (empty, ``chunked;``, ``"chunked"``)      refuse 400
TE exactly ``chunked``, in any case                    CHUNKED
TE names ``chunked`` twice, not last, or with a        refuse 400: no recipient could find the end (6.1, 7.1)
parameter (``chunked, chunked``, ``chunked, gzip``)
TE otherwise (``gzip, chunked``, ``gzip``,             refuse 501: well formed, merely unknown (6.1)
``identity``, ``xchunked``)
one CL                                                 that many bytes
neither                                                0
=====================================================  ===========================================================

RFC 9112 6.3 wants 400 where chunked is not the final coding, and 6.1 wants 501 for a coding that is not understood;
``gzip`` alone is both. 501 is the more helpful answer, and both close the connection, which is what protects.

Responses: every refusal is one of the upstream, and

=====================================================  ===========================================================
status or method                                       decision
=====================================================  ===========================================================
CL or TE wrong as above, unknown codings too           refuse
1xx, 204 with TE, or with a CL other than 0            refuse: RFC 9110 8.6 and RFC 9112 6.1 forbid them; a server
                                                       that sends one may send the bytes too, and they would be
                                                       read as the next answer. CL 0 says nothing wrong: accepted
1xx, 204, 304, any answer to HEAD                      0; the CL of a HEAD or 304 answer is kept for repeating
TE ``chunked``                                         CHUNKED
one CL                                                 that many bytes
neither                                                UNTIL_CLOSE
=====================================================  ===========================================================
"""

from __future__ import annotations

from typing import Final

from charon.base.errors import BAD_FRAMING, UNKNOWN_CODING, UPSTREAM_MALFORMED, BadMessage
from charon.wire import grammar

# Body lengths that are not numbers of bytes.
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2


def content_length(value: bytes) -> int:
    """The number in one Content-Length value. Raises :class:`BadMessage` (BAD_FRAMING)."""
    if grammar.CONTENT_LENGTH.fullmatch(value) is None:
        raise BadMessage(BAD_FRAMING, "Content-Length is not a number of 1 to 18 digits")
    return int(value)


def check_codings(value: bytes) -> None:
    """Accept exactly ``chunked``. Raises :class:`BadMessage` (BAD_FRAMING, UNKNOWN_CODING)."""
    codings = value.lower()
    if codings == b"chunked":
        return
    if grammar.TRANSFER_CODINGS.fullmatch(codings) is None:
        raise BadMessage(BAD_FRAMING, "Transfer-Encoding is malformed")
    names = [item.strip(b" \t") for item in codings.split(b",")]
    for index, name in enumerate(names):
        if name.partition(b";")[0].rstrip(b" \t") == b"chunked" and (name != b"chunked" or index != len(names) - 1):
            raise BadMessage(BAD_FRAMING, "chunked is not the one and last transfer coding")
    raise BadMessage(UNKNOWN_CODING, "Transfer-Encoding names a coding other than chunked")


def declared(lengths: list[bytes], codings: list[bytes], version: int) -> int | None:
    """What all Content-Length and Transfer-Encoding values of a message say together: None when there are none.

    Raises :class:`BadMessage` (BAD_FRAMING, UNKNOWN_CODING).
    """
    length = None
    if lengths:
        if len(lengths) > 1:
            raise BadMessage(BAD_FRAMING, "Content-Length is repeated")
        length = content_length(lengths[0])
    if not codings:
        return length
    if version == 10:
        raise BadMessage(BAD_FRAMING, "Transfer-Encoding in HTTP/1.0")
    if length is not None:
        raise BadMessage(BAD_FRAMING, "both Content-Length and Transfer-Encoding")
    if len(codings) > 1:
        raise BadMessage(BAD_FRAMING, "Transfer-Encoding is repeated")
    check_codings(codings[0])
    return CHUNKED


def request_body(lengths: list[bytes], codings: list[bytes], version: int) -> int:
    """Length of a request's body, or CHUNKED. Raises :class:`BadMessage` (BAD_FRAMING, UNKNOWN_CODING)."""
    return declared(lengths, codings, version) or 0


def response_body(
    lengths: list[bytes], codings: list[bytes], version: int, status: int, request_method: bytes
) -> tuple[int, int | None]:
    """Length of a response's body, CHUNKED or UNTIL_CLOSE, and the Content-Length that it declared.

    Raises :class:`BadMessage` (UPSTREAM_MALFORMED).
    """
    try:
        length = declared(lengths, codings, version)
    except BadMessage as bad:
        raise BadMessage(UPSTREAM_MALFORMED, bad.detail) from None
    number = None if length == CHUNKED else length
    if status < 200 or status == 204:
        if length:
            raise BadMessage(UPSTREAM_MALFORMED, "a body is declared where there can be none")
        return 0, None
    if status == 304 or request_method == b"HEAD":
        return 0, number
    return (UNTIL_CLOSE if length is None else length), number


def answer_framing(
    body: int, declared_length: int | None, status: int, request_method: bytes, client_version: int
) -> tuple[bytes, int]:
    """How an upstream's body goes on to the client: the framing line, and the length, CHUNKED or UNTIL_CLOSE.

    A body of unknown length is chunked to HTTP/1.1 clients, and ends with the connection for HTTP/1.0 ones: the
    caller must then close it.
    """
    if status < 200 or status == 204:
        return b"", 0
    if status == 304 or request_method == b"HEAD":
        return (b"" if declared_length is None else b"Content-Length: %d\r\n" % declared_length), 0
    if body >= 0:
        return b"Content-Length: %d\r\n" % body, body
    if client_version >= 11:
        return b"Transfer-Encoding: chunked\r\n", CHUNKED
    return b"", UNTIL_CLOSE
