"""registry.yaml: every form of it, every mistake in it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon.base.addresses import Address
from charon.base.errors import ConfigError
from charon.config.registry import Target, load_registry, parse_registry


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        parse_registry(text, "r")
    return refused.value.problems


def test_the_three_forms() -> None:
    registry = parse_registry(
        """
services:
  http-backend: localhost:9091
  admin-backend: ["10.0.0.5:80", "10.0.0.6:80"]
  weighted: {addresses: [{address: "10.0.0.7:80", weight: 3}, {address: "10.0.0.8:80", weight: 1}, "10.0.0.9:80"]}
"""
    )
    assert registry.services == {
        "http-backend": (Target(Address("localhost", 9091)),),
        "admin-backend": (Target(Address("10.0.0.5", 80)), Target(Address("10.0.0.6", 80))),
        "weighted": (
            Target(Address("10.0.0.7", 80), 3),
            Target(Address("10.0.0.8", 80), 1),
            Target(Address("10.0.0.9", 80)),
        ),
    }


def test_names_keep_their_case_and_are_always_text() -> None:
    registry = parse_registry("services: {CamelCase: a:1, camelcase: a:2, no: a:3, 80:80: a:4, 1.5: a:5}")
    assert list(registry.services) == ["CamelCase", "camelcase", "no", "80:80", "1.5"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://localhost:9091", "localhost:9091"),
        ("http://localhost", "localhost:80"),
        (":9091", "localhost:9091"),
        ("'[::1]:80'", "[::1]:80"),
        ("unix:/run/a.sock", "unix:/run/a.sock"),
        ("{addresses: a:1}", "a:1"),
    ],
)
def test_every_way_to_write_an_address(text: str, address: str) -> None:
    (target,) = parse_registry(f"services:\n  a: {text}\n").services["a"]
    assert str(target.address) == address


def test_a_service_may_have_no_address_and_a_registry_no_service() -> None:
    assert parse_registry("services: {a: []}").services == {"a": ()}
    assert parse_registry("services: {}").services == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "r:1: the file is empty; write services: and names with addresses below it"),
        ("services:\n", "r:1: services: a block of names and addresses is expected here; write {} for no service"),
        ("- a", "r:1: the file is not a block of keys; write services: and names with addresses below it"),
        ("services:\n  a:\n", "r:2: services.a: the service has no address"),
        ("services:\n  a: {}\n", "r:2: services.a.addresses: the service has no address"),
        ("services:\n  a: localhost\n", "r:2: services.a: 'localhost' is not an address: the port is missing"),
        ("services:\n  a: b:1\n  a: b:2\n", "r:3: services.a: given twice; it is first given on line 2"),
        ("services:\n  a:\n  - b:1\n  - b:1\n", "r:4: services.a[1]: b:1 is given twice; give it once, with a weight"),
        (
            "services:\n  a: ['https://b:1', 'http://c:1']\n",
            "r:2: services.a[1]: a service is reached over https:// at all of its addresses, or at none",
        ),
        ("services:\n  a:\n  - {address: b:1, weight: 0}\n", "r:3: services.a[0].weight: '0' is not a weight"),
        ("services:\n  a:\n  - {address: b:1, weight: x}\n", "r:3: services.a[0].weight: 'x' is not a weight"),
        ("services:\n  a:\n  - {weight: 1}\n", "r:3: services.a[0].address: an address is expected here"),
        ("services:\n  a:\n  - [b:1]\n", "r:3: services.a[0]: there is no address here"),
        ("services:\n  a: {adresses: [], addresses: []}\n", "r:2: services.a.adresses: unknown key; did you mean addr"),
        ("services: {a: [{address: b:1, wieght: 2}]}", "r:1: services.a[0].wieght: unknown key; did you mean weight?"),
        ("services: {'a b': c:1}", "r:1: services.'a b': this is not a name"),
        ("services:\n  a: [b:1\n", "r:3: not valid YAML"),
        ("services:\n  a: b:1\n\tc: d:1\n", "r:3: not valid YAML: a tab stands in the indentation"),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, problem: str) -> None:
    (found,) = problems(text)
    assert found.startswith(problem)


def test_all_mistakes_are_reported_at_once() -> None:
    found = problems("service: {}\nservices:\n  a: x\n  b: [y, c:1]\n  d: {weight: 1}\n")
    assert [line.split(": ")[1] for line in found] == ["service", "services.a", "services.b[0]"] + [
        "services.d.addresses",
        "services.d.weight",
    ]


def test_the_environment_is_not_read() -> None:
    assert "'${HOME}:1' is not an address" in problems("services: {a: '${HOME}:1'}")[0]


def test_a_file_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    with pytest.raises(ConfigError, match="there is no such file"):
        load_registry(path)
    path.write_text("services: {a: b:1}")
    assert list(load_registry(path).services) == ["a"]


def test_a_large_registry_is_read_whole_with_the_line_of_a_mistake_in_it() -> None:
    lines = [f"  svc-{i}: [10.{i >> 8 & 255}.{i & 255}.1:80, 10.0.0.2:80]" for i in range(5000)]
    assert len(parse_registry("services:\n" + "\n".join(lines)).services) == 5000
    lines[4000] = "  svc-4000: nonsense"
    assert problems("services:\n" + "\n".join(lines))[0].startswith("r:4002: services.svc-4000: ")


@given(st.text(max_size=60))
def test_any_text_is_a_registry_or_mistakes(text: str) -> None:
    try:
        parse_registry("services: " + text, "r")
    except ConfigError as refused:
        assert refused.problems
        assert all(line.startswith("r:") and line.isprintable() for line in refused.problems)
