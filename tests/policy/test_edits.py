"""Rewrites, redirects and header edits: what they make, and that nothing breaks out of a line."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from charon.base.errors import BadMessage
from charon.policy.edits import FieldEdits, Redirect, Rewrite
from charon.wire.grammar import REQUEST_LINE
from charon.wire.target import normalise_path


@dataclass(frozen=True)
class RewriteTo:
    path_prefix: str | None = None
    host: str | None = None
    regex: str | None = None
    substitution: str | None = None


@dataclass(frozen=True)
class RedirectTo:
    status: int = 302
    scheme: str | None = None
    host: str | None = None
    path: str | None = None


@dataclass(frozen=True)
class Edits:
    remove: tuple[str, ...] = ()
    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()


def rewritten(settings: RewriteTo, matched: str | None, path: bytes, query: bytes = b"") -> bytes:
    return Rewrite(settings, matched, normalise_path).target(path, query)


# Paths as requests have them after normalisation.
PCHARS = st.sampled_from([*"abz09-._~!$&'()*+,;=:@[]^`{|}", "%2F", "%25", "%3F", "%0D", "%C3"])
paths = st.lists(PCHARS | st.just("/"), max_size=12).map(lambda parts: normalise_path(b"/" + "".join(parts).encode()))
queries = st.sampled_from([b"", b"?", b"?a=1&b=%20", b"?/x?y"])


class TestPrefix:
    @pytest.mark.parametrize(
        ("matched", "replacement", "path", "target"),
        [
            ("/v1", "/", b"/v1/x", b"/x"),
            ("/v1", "/", b"/v1", b"/"),
            ("/v1", "/", b"/v1/", b"/"),
            ("/v1", "/v2", b"/v1", b"/v2"),
            ("/v1", "/v2", b"/v1/", b"/v2/"),
            ("/v1", "/v2/", b"/v1/x", b"/v2/x"),
            ("/v1/", "/v2", b"/v1/x/y", b"/v2/x/y"),
            ("/v1/", "/v2", b"/v1", b"/v2"),
            ("/", "/api", b"/x", b"/api/x"),
            (None, "/api", b"/x", b"/api/x"),
            (None, "/api", b"/", b"/api/"),
            ("/a/b", "/c", b"/a/b//d", b"/c//d"),
            ("/v1", "/über uns", b"/v1/x", b"/%C3%BCber%20uns/x"),
            ("/v1", "/a/../b", b"/v1/x", b"/b/x"),
            ("/v1", "/50%", b"/v1/x", b"/50%25/x"),
        ],
    )
    def test_whole_segments_are_replaced(
        self, matched: str | None, replacement: str, path: bytes, target: bytes
    ) -> None:
        assert rewritten(RewriteTo(path_prefix=replacement), matched, path) == target

    def test_the_query_stays(self) -> None:
        assert rewritten(RewriteTo(path_prefix="/"), "/v1", b"/v1", b"?a=/v1") == b"/?a=/v1"

    def test_the_asterisk_stays(self) -> None:
        assert rewritten(RewriteTo(path_prefix="/x"), "/", b"*") == b"*"


class TestSubstitution:
    @pytest.mark.parametrize(
        ("regex", "substitution", "path", "target"),
        [
            (r"^/users/(\d+)$", r"/u/\1", b"/users/7", b"/u/7"),
            (r"^/users/(?P<id>\d+)", r"/u/\g<id>", b"/users/7/x", b"/u/7/x"),
            (r"^/users/(\d+)$", r"/u/\1", b"/users/x", b"/users/x"),
            (r"\.php", "", b"/a.php/b.php", b"/a/b"),
            (r"^/", "", b"/x", b"/x"),
            (r".*", "", b"/x", b"/"),
            (r"^/old", "/neu ä", b"/old/x", b"/neu%20%C3%A4/x"),
            (r"^/f-(.*)$", r"/files/\1", b"/f-a/b", b"/files/a/b"),
            (r"^/f-(.*)$", r"/files/\1", b"/f-..", b"/"),
            (r"^/f-(.*)$", r"/a/b/\1/c", b"/f-..", b"/a/c"),
            (r"%2E|%25", "%", b"/%252E%252E/x", b"/x"),
            (r"2F", "", b"/a%2Fb", b"/a%25b"),
        ],
    )
    def test_the_path_is_rewritten_and_has_one_spelling(
        self, regex: str, substitution: str, path: bytes, target: bytes
    ) -> None:
        assert rewritten(RewriteTo(regex=regex, substitution=substitution), None, path, b"?q=1") == target + b"?q=1"

    def test_an_escaped_nul_is_refused(self) -> None:
        with pytest.raises(BadMessage):
            rewritten(RewriteTo(regex="%25", substitution="%"), None, b"/%2500")


@given(
    replacement=st.text(max_size=12).map(lambda text: "/" + text),
    regex=st.sampled_from([".", "%", "/", "[a-z]+", "2", "(.)(.)"]),
    path=paths,
    query=queries,
)
def test_a_rewritten_target_is_always_a_good_request_target(
    replacement: str, regex: str, path: bytes, query: bytes
) -> None:
    assume("\\" not in replacement)
    for settings in (RewriteTo(path_prefix=replacement), RewriteTo(regex=regex, substitution=replacement)):
        try:
            rewrite = Rewrite(settings, "/", normalise_path)
        except ValueError:
            assert re.search(r"[?#\x00-\x1f\x7f]|%00|[\ud800-\udfff]", replacement)
            continue
        try:
            target = rewrite.target(path, query)
        except BadMessage:
            assert settings.regex is not None  # it took an escape apart
            continue
        assert target.startswith(b"/") and target.endswith(query)
        assert REQUEST_LINE.fullmatch(b"GET " + target + b" HTTP/1.1")
        made = target.removesuffix(query)
        assert b"?" not in made
        assert normalise_path(made) == made


class TestRewriteHost:
    def test_it_is_given_as_bytes_or_kept(self) -> None:
        assert Rewrite(RewriteTo(host="internal.example:8080"), None, normalise_path).host == b"internal.example:8080"
        assert Rewrite(RewriteTo(host="[::1]:80"), None, normalise_path).host == b"[::1]:80"
        rewrite = Rewrite(RewriteTo(path_prefix="/x"), "/", normalise_path)
        assert rewrite.host is None

    def test_alone_it_leaves_the_target(self) -> None:
        assert rewritten(RewriteTo(host="h"), "/v1", b"/v1/x", b"?q") == b"/v1/x?q"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (RewriteTo(path_prefix="v2"), "begin with /"),
        (RewriteTo(path_prefix=""), "begin with /"),
        (RewriteTo(path_prefix="/a?b"), "without"),
        (RewriteTo(path_prefix="/a#b"), "without"),
        (RewriteTo(path_prefix="/a\r\nX: y"), "control"),
        (RewriteTo(path_prefix="/a%00"), "control"),
        (RewriteTo(regex="/a"), "need each other"),
        (RewriteTo(substitution="/a"), "need each other"),
        (RewriteTo(path_prefix="/a", regex="/a", substitution="/b"), "keep one"),
        (RewriteTo(regex="(", substitution="/b"), "not a regular expression"),
        (RewriteTo(regex="/a", substitution=r"/\1"), "not a substitution"),
        (RewriteTo(regex="/a", substitution=r"/\g<name>"), "not a substitution"),
        (RewriteTo(regex="/(a)", substitution=r"/x?\1"), "without"),
        (RewriteTo(regex="/a", substitution="/\n"), "control"),
        (RewriteTo(regex="/a", substitution="/%00"), "control"),
        (RewriteTo(regex="/a", substitution=r"/\000"), "NUL"),
        (RewriteTo(regex="(" * 60 + ")" * 60, substitution="/b"), "too long"),
        (RewriteTo(host="a b"), "not a host"),
        (RewriteTo(host="a\r\n"), "not a host"),
        (RewriteTo(host=""), "not a host"),
        (RewriteTo(host="user@h"), "not a host"),
        (RewriteTo(host="a:99999"), "not a host"),
        (RewriteTo(host="[::g]"), "not a host"),
        (RewriteTo(host="[fe80::1%eth0]"), "not a host"),
    ],
)
def test_rewrites_that_are_refused(settings: RewriteTo, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Rewrite(settings, "/", normalise_path)


class TestRedirect:
    @pytest.mark.parametrize(
        ("settings", "host", "path", "query", "location"),
        [
            (RedirectTo(scheme="https"), b"a.com", b"/x", b"?q=1", b"https://a.com/x?q=1"),
            (RedirectTo(scheme="https"), b"a.com:8080", b"/x", b"", b"https://a.com/x"),
            (RedirectTo(scheme="https"), b"[::1]:8080", b"/", b"", b"https://[::1]/"),
            (RedirectTo(scheme="https"), b"[::1]", b"/", b"", b"https://[::1]/"),
            (RedirectTo(scheme="http", path="/y"), b"a.com:8080", b"/x", b"", b"http://a.com:8080/y"),
            (RedirectTo(scheme="https", host="b.org:8443"), b"a.com:80", b"/x", b"", b"https://b.org:8443/x"),
            (RedirectTo(host="b.org"), b"a.com:8080", b"/x", b"?q", b"http://b.org/x?q"),
            (RedirectTo(path="/new"), b"a.com:8080", b"/old/x", b"?q=1", b"http://a.com:8080/new?q=1"),
            (RedirectTo(path="/new?r=2 3"), b"a.com", b"/old", b"?q=1", b"http://a.com/new?r=2%203"),
            (RedirectTo(path="/für"), b"a.com", b"/old", b"", b"http://a.com/f%C3%BCr"),
            (RedirectTo(host="b.org"), b"a.com", b"*", b"", b"http://b.org/"),
            (RedirectTo(scheme="https"), b"", b"/x", b"?q", b"/x?q"),
            (RedirectTo(scheme="https"), b"", b"//evil.com/x", b"", b"/.//evil.com/x"),
            (RedirectTo(scheme="https"), b"a.com", b"//evil.com/x", b"", b"https://a.com//evil.com/x"),
        ],
    )
    def test_location(self, settings: RedirectTo, host: bytes, path: bytes, query: bytes, location: bytes) -> None:
        assert Redirect(settings).location(b"http", host, path, query) == location

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_statuses(self, status: int) -> None:
        assert Redirect(RedirectTo(status, path="/x")).status == status

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            (RedirectTo(), "needs a scheme, a host or a path"),
            (RedirectTo(200, path="/x"), "200 is no redirect"),
            (RedirectTo(304, path="/x"), "304 is no redirect"),
            (RedirectTo(scheme="ftp"), "use http or https"),
            (RedirectTo(host="a/b"), "not a host"),
            (RedirectTo(path="x"), "begin with /"),
            (RedirectTo(path="/x#y"), "without"),
            (RedirectTo(path="/x?a#y"), "control characters or #"),
            (RedirectTo(path="/x?a\r\nSet-Cookie: a"), "control"),
            (RedirectTo(path="/x\n"), "control"),
        ],
    )
    def test_refused(self, settings: RedirectTo, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            Redirect(settings)

    @given(text=st.text(max_size=15), path=paths, query=queries)
    def test_a_location_never_holds_a_control_byte_or_a_space(self, text: str, path: bytes, query: bytes) -> None:
        try:
            redirect = Redirect(RedirectTo(path="/" + text))
        except ValueError:
            assert re.search(r"[#\x00-\x1f\x7f]|%00|[\ud800-\udfff]", text)
            return
        assert re.fullmatch(rb"http://a\.com/[\x21-\x7e]*", redirect.location(b"http", b"a.com", path, query))


FIELDS = [(b"Accept", b"*/*"), (b"X-Team", b"a"), (b"x-team", b"b"), (b"X_Team", b"c"), (b"Cookie", b"d=e")]


class TestFieldEdits:
    @pytest.mark.parametrize(
        ("edits", "after"),
        [
            (Edits(), FIELDS),
            (Edits(remove=("x-TEAM",)), [FIELDS[0], FIELDS[4]]),
            (Edits(remove=("Absent",)), FIELDS),
            (Edits(set=(("X-Team", "z"),)), [FIELDS[0], FIELDS[4], (b"X-Team", b"z")]),
            (Edits(add=(("X-Team", "z"),)), [*FIELDS, (b"X-Team", b"z")]),
            (
                Edits(
                    remove=("Cookie", "X-Team"),
                    set=(("Accept", "text/html"),),
                    add=(("X-Team", "new"), ("X-Team", "2")),
                ),
                [(b"Accept", b"text/html"), (b"X-Team", b"new"), (b"X-Team", b"2")],
            ),
            # Removed first, then set: it is there.
            (Edits(remove=("Accept",), set=(("Accept", "a"),)), [*FIELDS[1:], (b"Accept", b"a")]),
            # Set first, then added: two of them.
            (
                Edits(set=(("Accept", "a"),), add=(("accept", "b"),)),
                [*FIELDS[1:], (b"Accept", b"a"), (b"accept", b"b")],
            ),
            (Edits(add=(("X-Name", " é\t1 "),)), [*FIELDS, (b"X-Name", "é\t1".encode())]),
            (Edits(add=(("X-Empty", ""),)), [*FIELDS, (b"X-Empty", b"")]),
        ],
    )
    @pytest.mark.parametrize("request_side", [True, False])
    def test_remove_then_set_then_add(self, edits: Edits, after: list[tuple[bytes, bytes]], request_side: bool) -> None:
        before = list(FIELDS)
        assert FieldEdits(edits, request=request_side).apply(before) == after
        assert before == FIELDS

    @pytest.mark.parametrize(
        "name",
        [
            "Content-Length", "content_length", "Transfer-Encoding", "TRANSFER-ENCODING", "Connection", "Keep-Alive",
            "Upgrade", "TE", "Trailer", "Proxy-Connection", "HTTP2-Settings", "Expect",
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("request_side", [True, False])
    def test_framing_and_this_hop_are_out_of_reach(self, name: str, request_side: bool) -> None:
        for edits in (Edits(remove=(name,)), Edits(set=((name, "1"),)), Edits(add=((name, "1"),))):
            with pytest.raises(ValueError, match=f"{name} cannot be edited: "):
                FieldEdits(edits, request=request_side)

    @pytest.mark.parametrize(
        ("name", "said"),
        [("Host", "rewrite.host changes it"), ("X-Forwarded-For", "Charon writes it"), ("Via", "Charon writes it")],
    )
    def test_a_request_says_where_it_goes_and_whence_it_came_by_other_means(self, name: str, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            FieldEdits(Edits(set=((name, "x"),)), request=True)
        FieldEdits(Edits(set=((name, "x"),)), request=False)

    @pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\n", "é", "a\0", "Content-Length "])
    def test_names_are_tokens(self, name: str) -> None:
        for edits in (Edits(remove=(name,)), Edits(set=((name, "1"),)), Edits(add=((name, "1"),))):
            with pytest.raises(ValueError, match="not the name of a header field"):
                FieldEdits(edits, request=True)

    @pytest.mark.parametrize("value", ["a\r\nX: y", "a\n", "\r", "a\0b", "\x1b[0m", "\x7f"])
    def test_values_stay_on_their_line(self, value: str) -> None:
        for edits in (Edits(set=(("X", value),)), Edits(add=(("X", value),))):
            with pytest.raises(ValueError, match="control character"):
                FieldEdits(edits, request=False)

    @given(name=st.text(max_size=6), value=st.text(max_size=10))
    def test_what_is_accepted_is_a_good_field_line(self, name: str, value: str) -> None:
        try:
            edits = FieldEdits(Edits(add=((name, value),)), request=True)
        except ValueError:
            return
        [(made_name, made_value)] = edits.apply([])
        assert re.fullmatch(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", made_name)
        assert re.fullmatch(rb"[\t\x20-\x7e\x80-\xff]*", made_value)
        assert made_value == made_value.strip(b" \t")
