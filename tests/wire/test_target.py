"""Request targets and hosts: forms, one spelling, refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon.base.errors import BAD_REQUEST, BadMessage
from charon.wire.target import is_host, normalise_path, resolve


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        (b"/", b"/"),
        (b"/a/./b", b"/a/b"),
        (b"/a/../b", b"/b"),
        (b"/a/b/..", b"/a/"),
        (b"/a/.", b"/a/"),
        (b"/..", b"/"),
        (b"/../../a", b"/a"),
        (b"/.", b"/"),
        (b"/a//b", b"/a//b"),
        (b"//", b"//"),
        (b"/a//../b", b"/a/b"),
        (b"/a//.", b"/a//"),
        (b"/.//a", b"//a"),
        (b"/.well-known/..a/...", b"/.well-known/..a/..."),
        (b"/a/%2e%2E/b", b"/b"),
        (b"/a/.%2e/b", b"/b"),
        (b"/%7euser/%41%2D%5f", b"/~user/A-_"),
        (b"/a%2fb%3a", b"/a%2Fb%3A"),
        (b"/%252e", b"/%252e"),
        (b"/..;/a", b"/..;/a"),
        (b"/%5c..%5C", b"/%5C..%5C"),
        (b"/%0d%0a", b"/%0D%0A"),
    ],
)
def test_one_spelling(path: bytes, normal: bytes) -> None:
    assert normalise_path(path) == normal


@pytest.mark.parametrize("path", [b"/%", b"/%4", b"/%zz", b"/%%41", b"/%u0041", b"/%+1", b"/%00", b"/a%2500%00"])
def test_broken_escapes(path: bytes) -> None:
    with pytest.raises(BadMessage) as caught:
        normalise_path(path)
    assert caught.value.reason is BAD_REQUEST


@given(st.lists(st.sampled_from([b"a", b"b", b"", b".", b"..", b"%2e", b".%2E", b"%2f", b"%41", b"..."]), min_size=1))
def test_a_normal_path_is_normal(segments: list[bytes]) -> None:
    """Idempotent, still a path, and without dot segments in any spelling."""
    normal = normalise_path(b"/" + b"/".join(segments))
    assert normal.startswith(b"/") and normalise_path(normal) == normal
    assert not {b".", b".."} & set(normal.split(b"/")) and b"%2E" not in normal.upper()


@pytest.mark.parametrize(
    ("method", "target", "result"),
    [
        (b"GET", b"/a?b", (b"/a", b"/a?b", None)),
        (b"GET", b"/%41?%41/../%zz", (b"/A", b"/A?%41/../%zz", None)),
        (b"OPTIONS", b"*", (b"*", b"*", None)),
        (b"GET", b"http://a.b:80/c/../d?e", (b"/d", b"/d?e", b"a.b:80")),
        (b"GET", b"HTTPS://a", (b"/", b"/", b"a")),
        (b"GET", b"http://a?b?c/", (b"/", b"/?b?c/", b"a")),
        (b"OPTIONS", b"http://a", (b"*", b"*", b"a")),
        (b"OPTIONS", b"http://a?", (b"/", b"/?", b"a")),
        (b"OPTIONS", b"http://a/", (b"/", b"/", b"a")),
    ],
)
def test_forms(method: bytes, target: bytes, result: tuple[bytes, bytes, bytes | None]) -> None:
    assert resolve(method, target) == result


@pytest.mark.parametrize(
    "target",
    [b"*", b"**", b"a", b"a:80", b"http:/a", b"http://", b"http:///a", b"http://:80/", b"http://u@a/", b"http://@a/",
     b"http://a:/", b"http://a:b/", b"http://a:65536/", b"ftp://a/", b"http://[::1/", b"http://[::g]/", b"?a",
     b"http://a/%00", b"javascript:alert(1)", b"file:///a", b"://a/"],
)  # fmt: skip
def test_other_forms_are_refused(target: bytes) -> None:
    with pytest.raises(BadMessage) as caught:
        resolve(b"GET", target)
    assert caught.value.reason is BAD_REQUEST


@pytest.mark.parametrize(
    "host",
    [b"a", b"a.example", b"A-b_c.d", b"a:0", b"a:80", b"a:65535", b"127.0.0.1", b"127.0.0.1:8080", b"[::1]",
     b"[::1]:80",
     b"[2001:db8::a.b.c.d]".replace(b"a.b.c.d", b"1.2.3.4"), b"a%41", b"a!$&'()*+,;=~", b"1"],
)  # fmt: skip
def test_good_hosts(host: bytes) -> None:
    assert is_host(host)


@pytest.mark.parametrize(
    "host",
    [b"", b":", b":80", b"a:", b"a:b", b"a:-1", b"a:+1", b"a:65536", b"a:99999", b"a:000080", b"a:80:80", b"u@a",
     b"a b",
     b"a\t", b"a/", b"a?", b"a#", b"a\\", b"a%", b"a%4", b"a%zz", b"::1", b"[::1", b"::1]", b"[]", b"[:]", b"[::1]x",
     b"[::1]:", b"[::1%eth0]", b"[::1%25eth0]", b"[v1.a]", b"[1.2.3.4]", b"[::g]", b"[1:2:3:4:5:6:7:8:9]", b"a[::1]",
     b"caf\xc3\xa9", b"a\x00", b"a\n", b"a,b c", b'a"', b"a<", b"http://a", b"{a}", b"a|b", b"a^b"],
)  # fmt: skip
def test_bad_hosts(host: bytes) -> None:
    assert not is_host(host)
