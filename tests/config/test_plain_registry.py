"""What is read the short way is read as YAML's parser reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon.base.errors import ConfigError
from charon.config.document import parse
from charon.config.plain_registry import changed_part, read_plain
from charon.config.registry import Registry, RegistryReader, parse_registry


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("services:\n  a: b:1\n", {"a": "b:1"}),
        ("services:\n  a: b:1", {"a": "b:1"}),
        ("# a remark\n\nservices:\n  # another\n  A.b-c_9: '10.0.0.1:80'\n\n", {"A.b-c_9": "10.0.0.1:80"}),
        ("services:\n  null: \"b:1\"\n  'no': b:2\n", {"null": "b:1", "no": "b:2"}),
        ("services:\n  a: [b:1, \"c:2\", 'd:3']\n", {"a": ["b:1", "c:2", "d:3"]}),
        ("services:\n  a:\n  - b:1\n  - 'c:2'\n  d: e:3\n", {"a": ["b:1", "c:2"], "d": "e:3"}),
        ("services:\n  a:\n    - b:1\n    - c:2\n", {"a": ["b:1", "c:2"]}),
    ],
)
def test_plain_forms_are_read(text: str, found: object) -> None:
    assert read_plain(text) == found == parse(text, "r").value["services"]  # type: ignore[call-overload, index]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "services:\n",
        "services: {}\n",
        "services:\n  a: b:1\n  a: c:1\n",  # for the parser to tell, with its line
        "services:\n  a: b:1\n  <<: c:1\n",
        "services:\n  a: &x b:1\n",
        "services:\n  a: {addresses: [b:1]}\n",
        "services:\n  a: b:1\n   c: d:1\n",
        "services:\n  a: b:1\r\n",
        "services:\n  a: b:1\nother: c\n",
        "services:\n  a: b:1 # why\n",
        "services:\n  a: [b:1,\n  c: d:1]\n",
        "services:\n  a: ~\n",
        "services:\n  a: b:1\n...\n",
        "---\nservices:\n  a: b:1\n",
    ],
)
def test_all_else_is_left_to_the_parser(text: str) -> None:
    assert read_plain(text) is None


_PIECES = st.sampled_from(
    [
        "services:",
        "\n",
        "  ",
        " ",
        "a",
        "b1",
        ":",
        ": ",
        "- ",
        "b:1",
        "10.0.0.1:80",
        "'",
        '"',
        "[",
        "]",
        ", ",
        "#",
        "x",
        "\t",
    ]
)


@given(st.lists(_PIECES, max_size=14).map("".join))
def test_whatever_it_reads_the_parser_reads_alike(pieces: str) -> None:
    text = "services:\n  a: b:1\n" + pieces
    found = read_plain(text)
    if found is not None:
        document = parse(text, "r")
        assert (document.value, document.problems) == ({"services": found}, [])


@pytest.mark.parametrize(
    "address", ["256.0.0.1:80", "10.0.0.1:0", "10.0.0.1:65536", "1.2.3:80", "010.0.0.1:80", "a..b:1"]
)
def test_a_wrong_address_in_a_plain_registry_is_told_with_its_line(address: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_registry(f"services:\n  fine: 10.0.0.1:80\n  a: {address}\n", "r")
    assert [problem.split("'")[0] for problem in refused.value.problems] == ["r:3: services.a: "]


@pytest.mark.parametrize(
    ("before", "after", "parts"),
    [
        ("  a: b:1\n  c: d:1\n  e: f:1\n", "  a: b:1\n  c: d:2\n  e: f:1\n", ("  c: d:1\n", "  c: d:2\n")),
        ("  a: b:1\n  c: d:1\n", "  a: b:1\n  b: c:1\n  c: d:1\n", ("  a: b:1\n", "  a: b:1\n  b: c:1\n")),
        (
            "  a:\n  - b:1\n  - c:1\n  d: e:1\n",
            "  a:\n  - b:1\n  d: e:1\n",
            ("  a:\n  - b:1\n  - c:1\n", "  a:\n  - b:1\n"),
        ),
    ],
)
def test_what_differs_is_whole_entries(before: str, after: str, parts: tuple[str, str]) -> None:
    assert changed_part("services:\n" + before, "services:\n" + after) == parts


_MOST = "".join(f"  most-{number}: x:1\n" for number in range(20))
_ENTRIES = st.lists(
    st.sampled_from(
        ["  a: b:1\n", "  a: b:2\n", "  aa: b:1\n", "  c:\n  - b:1\n", "  c:\n  - b:1\n  - d:1\n", "  d: [a:1, b:1]\n"]
        + ["  # remark\n", "\n", "  e: {addresses: [b:1]}\n", "  f: nonsense\n", "  - b:3\n", "g: h:1\n", "  h: b:1"]
    ),
    max_size=6,
).map("".join)


@given(st.lists(_ENTRIES, min_size=2, max_size=4))
def test_a_reader_that_knows_the_last_text_reads_the_next_as_any_other(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "known.yaml"
    reader = RegistryReader()
    for text in texts:
        path.write_text("services:\n" + _MOST + text + _MOST.replace("most", "rest"))
        assert outcome(reader, path) == outcome(lambda at: parse_registry(at.read_text(), str(at)), path)


def outcome(read: object, path: Path) -> object:
    try:
        found = read(path)  # type: ignore[operator]
    except ConfigError as refused:
        return refused.problems
    assert isinstance(found, Registry)
    return dict(found.services)
