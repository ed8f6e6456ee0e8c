"""The grammar of HTTP/1.1 heads as compiled patterns over bytes, each beside its rule.

Repetitions of one character are possessive (``++``, ``*+``) or bounded. Repetitions of a group are greedy, and what
follows one can never begin with a byte that the group begins with: giving a round back leads nowhere, and is noticed at
the first byte. So the time is linear in the input, whatever a peer sends (tests/wire/test_grammar.py holds every
pattern here to this). Groups are not possessive because Python before 3.11.5 gets those wrong: when a round fails half
way, it forgets to step back, and accepts what it must not (CPython issue 106052).

What decides about a message is matched at a given place or as a whole. The two that are searched for have a fixed
small size (PERCENT), or take apart what was already accepted (SPLIT_FIELDS).
"""

from __future__ import annotations

import re
from typing import Final

# RFC 9110 5.6.2: tchar = "!" / "#" / "$" / "%" / "&" / "'" / "*" / "+" / "-" / "." / "^" / "_" / "`" / "|" / "~"
#                         / DIGIT / ALPHA
TCHAR: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
# RFC 9110 5.6.2: token = 1*tchar
_TOKEN: Final = TCHAR + rb"++"

# RFC 9110 5.5: field-value = *field-content, of VCHAR, obs-text, SP and HTAB.
# obs-text (0x80-0xff) is accepted: real clients send UTF-8 in values, and no recipient reads it as a delimiter.
# obs-fold is not accepted (RFC 9112 5.2 lets a server refuse it): recipients differ about where the value ends.
# OWS around the value belongs to the pattern, and is trimmed afterwards.
_VALUE: Final = rb"[\t\x20-\x7e\x80-\xff]*+"

# RFC 9112 5: field-line = field-name ":" OWS field-value OWS. No whitespace before the colon (RFC 9112 5.1).
_FIELD_LINES: Final = rb"(?:" + _TOKEN + rb":" + _VALUE + rb"\r\n)*"

# RFC 9112 3.2: request-target. RFC 3986: pchar = unreserved / pct-encoded / sub-delims / ":" / "@"; path adds "/";
# query adds "/" and "?"; "%" is looked at later, where the path is normalised. Departures, all printable ASCII that
# browsers leave as it is (the WHATWG URL standard does not encode it) and that no recipient takes for a delimiter of
# the request line, the path or the query:
#   "|"      in paths and queries by every browser
#   "[" "]"  in paths and queries: `filter[name]=x` is how PHP, Rails and JSON:API spell lists
#   "^"      in paths by browsers older than 2023, in queries by all
#   "`"      in queries by all
#   "{" "}"  in queries by all, in paths by many non-browser clients (templates, OData)
# Still refused: controls, SP, DEL and everything above 0x7e; "#" (a fragment is never sent); "\" (some servers read
# it as "/", so it would route one way and be served another); '"', "<", ">" (no client sends them bare).
_TARGET: Final = rb"[!$%&'()*+,\-./0-9:;=?@A-Z\[\]^_`a-z{|}~]++"

# RFC 9112 2.2: a server SHOULD ignore at least one empty line (CRLF) before the request line. One is skipped.
# RFC 9112 3: request-line = method SP request-target SP HTTP-version, with exactly one SP between them, and
# HTTP-version (2.3) case-sensitive. Whitespace variations that RFC 9112 3 would permit are refused.
# Groups: method, target, minor version, field lines.
REQUEST_HEAD: Final = re.compile(
    rb"(?:\r\n)?(" + _TOKEN + rb") (" + _TARGET + rb") HTTP/1\.([01])\r\n(" + _FIELD_LINES + rb")\r\n"
)

# The same line with any version, for saying what is wrong with a line that is not ours (505 or 400).
# RFC 9112 2.3: HTTP-version = HTTP-name "/" DIGIT "." DIGIT
REQUEST_LINE: Final = re.compile(rb"(" + _TOKEN + rb") (" + _TARGET + rb") HTTP/([0-9]\.[0-9])")

# RFC 9112 4: status-line = HTTP-version SP status-code SP [ reason-phrase ]
# Departure: the second SP may be missing when there is no reason phrase; many servers leave it out, and nothing else
# can be meant. Status codes outside 100-599 are invalid (RFC 9110 15), and a proxy cannot know what they do to the
# length of the body, so they are refused.
# Groups: minor version, status, reason (None when missing), field lines.
RESPONSE_HEAD: Final = re.compile(
    rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: (" + _VALUE + rb"))?\r\n(" + _FIELD_LINES + rb")\r\n"
)
STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: (" + _VALUE + rb"))?")

# Complete, good field lines from a given place on; what stands after the match is a bad line or an unfinished one.
FIELD_LINES: Final = re.compile(_FIELD_LINES)

# Takes lines apart that one of the above has accepted: names without ":" and values without CR need no second check.
# The value keeps the OWS behind it.
SPLIT_FIELDS: Final = re.compile(rb"([^:]++):[ \t]*+([^\r]*+)\r\n")

# Lines as they may stand: the match ends at the first CR that no LF follows or LF that no CR precedes, or at the end
# (RFC 9112 2.2: a bare CR must not pass; a bare LF may be taken for a line end by a lenient recipient, so it must not
# pass either). A CR at the very end is still open.
CLEAN_LINES: Final = re.compile(rb"[^\r\n]*+(?:\r\n[^\r\n]*+)*")

TOKEN: Final = re.compile(_TOKEN)

# RFC 3986 3.2.2 and 3.2.3, RFC 9110 7.2: Host = uri-host [ ":" port ], with
#   reg-name = *( unreserved / pct-encoded / sub-delims ), IPv4address being a reg-name by its letters;
#   IP-literal = "[" IPv6address "]"; port = *DIGIT
# Departures: the name may not be empty (RFC 9110 4.2.1: an http URI with an empty host is invalid); a port has one
# to five digits and is at most 65535 (an empty or larger one names no port); IPvFuture is refused (nothing has ever
# used it). Whether the inside of the brackets is an address is asked of `inet_pton`.
# Groups: host with brackets, port.
_REG_NAME: Final = rb"(?:[0-9A-Za-z\-._~!$&'()*+,;=]++|%[0-9A-Fa-f]{2})+"
_PORT: Final = rb"6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[0-5][0-9]{4}|[0-9]{1,4}"
HOST: Final = re.compile(rb"(" + _REG_NAME + rb"|\[[0-9A-Fa-f:.]{2,45}\])(?::(" + _PORT + rb"))?")

# RFC 3986 3: absolute-form as far as this proxy serves it: scheme "://" authority path-abempty [ "?" query ].
# Groups: authority (may still be wrong), path, query with its "?".
ABSOLUTE_FORM: Final = re.compile(rb"(?i:https?)://([^/?]*+)([^?]*+)((?:\?.*+)?)")

# RFC 3986 2.1: pct-encoded = "%" HEXDIG HEXDIG
PERCENT: Final = re.compile(rb"%([0-9A-Fa-f]{2})?")

# RFC 9110 8.6: Content-Length = 1*DIGIT; bounded to 18 digits, so that the value fits every recipient's 64 bits.
CONTENT_LENGTH: Final = re.compile(rb"[0-9]{1,18}")

# RFC 9112 6.1: Transfer-Encoding = #transfer-coding, transfer-coding = token *( OWS ";" OWS transfer-parameter ).
# Parameters are of no known coding, so only their shape without quotes is understood; empty list elements are refused.
_CODING: Final = _TOKEN + rb"(?:[ \t]*+;[ \t]*+" + _TOKEN + rb"[ \t]*+=[ \t]*+" + _TOKEN + rb")*"
TRANSFER_CODINGS: Final = re.compile(_CODING + rb"(?:[ \t]*+,[ \t]*+" + _CODING + rb")*")

# RFC 9110 7.8: Upgrade = #protocol, protocol = protocol-name [ "/" protocol-version ], both tokens.
PROTOCOL: Final = re.compile(_TOKEN + rb"(?:/" + _TOKEN + rb")?")

# RFC 9112 7.1: chunk-size = 1*HEXDIG (bounded to 16: 64 bits);
# RFC 9112 7.1.1: chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] ),
#   chunk-ext-name = token, chunk-ext-val = token / quoted-string
# RFC 9110 5.6.4: qdtext = HTAB / SP / %x21 / %x23-5B / %x5D-7E / obs-text; quoted-pair = "\" ( HTAB / SP / VCHAR /
#   obs-text ). A quoted line break is no quoted-pair: the line ends at its CRLF, always.
# Groups: size, extensions.
_QUOTED: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]++|\\[\t \x21-\x7e\x80-\xff])*"'
_EXTENSION: Final = rb"[ \t]*+;[ \t]*+" + _TOKEN + rb"(?:[ \t]*+=[ \t]*+(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?"
CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})((?:" + _EXTENSION + rb")*)")
