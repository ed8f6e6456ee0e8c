"""What the schema knows and this version cannot do is refused by name, unless it is switched off."""

import pytest

from charon.config import availability
from charon.config.availability import NOT_YET
from charon.config.schema.shape import EVERYWHERE, block_at
from tests.config.support import Folder

TARGET = "target_service_addr: a:1\n"

REFUSED = [
    ("admin.address", "127.0.0.1:1"),
]

OFF = [
    ("admin.address", "none"),
]


def text_with(key: str, value: str) -> str:
    """A configuration that is otherwise fine, with ``key`` in it."""
    text = f"{key.rpartition('.')[2]}: {value}"
    for step in reversed(key.split(".")[:-1]):
        if step.endswith("[0]"):
            text = f"{step[:-3]}: [{{address: ':1', {text}}}]"
        else:
            text = f"{step}: {{{text}}}"
    return TARGET + text


@pytest.mark.parametrize(("key", "value"), REFUSED)
def test_a_feature_that_comes_later_is_refused_by_name(folder: Folder, key: str, value: str) -> None:
    assert folder.problems(text_with(key, value)) == [f"2: {key}: not available in this version"]


@pytest.mark.parametrize(("key", "value"), OFF)
def test_a_feature_that_is_switched_off_is_accepted(folder: Folder, key: str, value: str) -> None:
    assert folder.problems(text_with(key, value)) == []


@pytest.mark.parametrize("later", NOT_YET, ids=lambda later: later.key)
def test_every_entry_names_a_key_of_the_schema_and_is_tried_above(later: availability.Later) -> None:
    path = later.key.split(".")
    block = block_at(tuple(EVERYWHERE if step == "*" else step for step in path[:-1]))
    assert block is not None
    assert path[-1] in block.model_fields
    assert any(key.endswith(later.key) for key, _ in REFUSED)


def test_a_feature_lands_by_deleting_its_line(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    rest = {key: later for key, later in availability._BY_KEY.items() if key != "admin.address"}
    monkeypatch.setattr(availability, "_BY_KEY", rest)
    assert folder.load(TARGET + "admin: {address: '127.0.0.1:1'}").root.admin.address is not None


def test_a_service_may_be_named_like_a_key(folder: Folder) -> None:
    text = TARGET + "services: {protocol: {addresses: [a:1]}, routes: {}, tracing: {addresses: [a:1]}}"
    assert folder.problems(text) == []
