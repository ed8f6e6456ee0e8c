"""YAML text to values and lines, and one clear line for what is not YAML."""

import errno
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from charon.base.errors import ConfigError
from charon.config import document
from charon.config.document import decode, parse, read_text
from charon.config.problems import render


@pytest.fixture(params=["CSafeLoader", "SafeLoader"], autouse=True)
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of PyYAML's parsers behave alike."""
    monkeypatch.setattr(document, "_LOADER", getattr(yaml, request.param))


def only_problem(text: str) -> str:
    with pytest.raises(ConfigError) as refused:
        parse(text, "f")
    (problem,) = refused.value.problems
    assert problem.isprintable()
    return problem


def test_scalars_stay_text_and_every_key_has_its_line() -> None:
    found = parse("a: 1\nb:\n  c: no\n  d:\n    - 80:80\n    - {e: 0x1f}\nf: ~\ng: '~'\n", "f")
    assert found.value == {"a": "1", "b": {"c": "no", "d": ["80:80", {"e": "0x1f"}]}, "f": None, "g": "~"}
    assert found.line(("b", "c")) == 3
    assert found.line(("b", "d", 1, "e")) == 6
    assert found.line(("b", "d", 1, "e", "deeper")) == 6
    assert found.line(("nowhere",)) == 1
    assert not found.problems


def test_a_key_given_twice_is_a_mistake_at_the_second_place() -> None:
    found = parse("a: 1\nb:\n  x: 1\n  y: 2\n  x: 3\na: {b: 2}\n", "f")
    assert render("f", found.problems) == [
        "f:5: b.x: given twice; it is first given on line 3",
        "f:6: a: given twice; it is first given on line 1",
    ]
    assert found.value == {"a": "1", "b": {"x": "1", "y": "2"}}


def test_anchors_aliases_and_merges() -> None:
    found = parse("base: &b {x: 1, y: 2}\none: {<<: *b, y: 3}\ntwo: *b\nmany: {<<: [*b, {z: 4}]}\n", "f")
    assert found.value == {
        "base": {"x": "1", "y": "2"},
        "one": {"y": "3", "x": "1"},
        "two": {"x": "1", "y": "2"},
        "many": {"x": "1", "y": "2", "z": "4"},
    }
    assert render("f", parse("a: {<<: 1}", "f").problems) == ["f:1: a.<<: only a block of keys can be merged"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a:\n\tb: 1\n", "f:2: not valid YAML: a tab stands in the indentation; only spaces are allowed there"),
        ("a: 1\nb: c: d\n", "f:2: not valid YAML: a ':' is not expected here"),
        ("a: 1\nb: @c\n", "f:2: not valid YAML: no value can start with '@'; put the value in quotes"),
        ("a: *none\n", "f:1: a: there is no anchor &none before this"),
        ("a: &x [*x]\n", "f:1: a[0]: there is no anchor &x before this"),
        ("a: 1\n---\nb: 1\n", "f:2: a second YAML document; a file holds one"),
        ("a: 1\nb: \x00\n", "f:2: the control character U+0000 is not allowed"),
        ("a: 1\nb: \x1b[31m\n", "f:2: the control character U+001B is not allowed"),
        ("[" * 100_000, "f:1: [0][0][0]: more than 32 blocks in each other"),
        ("{a: " * 50_000, "f:1: a.a.a: more than 32 blocks in each other"),
        ("a: 'open\nb: 2\n", "not valid YAML"),
        ("a: [1\nb: 2\n", "not valid YAML"),
        ("%TAG x\n", "f:1: not valid YAML"),
    ],
)
def test_what_is_not_yaml_is_one_clear_line(text: str, problem: str) -> None:
    assert problem in only_problem(text)


def test_milder_mistakes_are_collected() -> None:
    found = parse("a: !!python/object:os.system x\n? [b]\n: 1\n{c: 1}: 2\nd: !!str 5\ne: !x {f: 1}\n", "f")
    assert [line.split(":")[1] for line in render("f", found.problems)] == ["1", "2", "4", "6"]
    assert found.value == {"a": "x", "d": "5", "e": {"f": "1"}}


def test_an_alias_cannot_blow_up_memory() -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{f'*{chr(97 + i)}, ' * 9}]\n" for i in range(20))
    assert isinstance(parse(bomb, "f").value, dict)


def test_empty_text_is_no_value() -> None:
    assert parse("", "f").value is None
    assert parse("# only a comment\n", "f").value is None
    assert parse("---\n...\n", "f").value is None


@given(st.text(alphabet=st.sampled_from(list("ab:-[]{},&*!|>'\"#% \n\t?<$0~")), max_size=60))
def test_any_text_is_values_or_problems(text: str) -> None:
    try:
        parse(text, "f")
    except ConfigError as refused:
        assert all(problem.startswith("f:") for problem in refused.problems)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("a: 1".encode("utf-16"), "f:1: the file is UTF-16; only UTF-8 is read"),
        (b"a: 1\nb: \xe9\n", "f:2: the file is not UTF-8: byte 0xe9"),
    ],
)
def test_other_encodings_are_named(data: bytes, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        decode(data, "f")
    assert refused.value.problems == [problem]


def test_a_byte_order_mark_is_no_text() -> None:
    assert decode(b"\xef\xbb\xbfa: 1", "f") == "a: 1"


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, why in [
        (tmp_path / "none.yaml", "there is no such file"),
        (tmp_path / "none" / "x.yaml", "there is no such file"),
        (tmp_path, "this is a folder, not a file"),
        (tmp_path / "pipe", "this is not an ordinary file"),
        (Path("/dev/null/x"), "the file cannot be read: Not a directory"),
        (Path("a\0b"), "this cannot be the name of a file"),
    ]:
        with pytest.raises(ConfigError) as refused:
            read_text(path)
        (problem,) = refused.value.problems
        assert problem.endswith(why)


def test_a_file_without_permission_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, flags: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(document, "_open_without_waiting", refuse)
    with pytest.raises(ConfigError) as refused:
        read_text(Path("x.yaml"))
    assert refused.value.problems == ["x.yaml: the file cannot be read: Permission denied"]
