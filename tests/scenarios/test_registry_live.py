"""The registry: its forms, and every way in which a file can change while requests run.

That a change is in effect within a second is measured by ``scripts/faults registry``."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Connection, ScriptedBackend, http_response
from tests.harness.charon import CharonProcess, sample
from tests.harness.client import RawClient
from tests.harness.waiting import eventually


class Named(ScriptedBackend):
    """Answers every request with its name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.serve(http_response(200, name.encode()))


@pytest.fixture(scope="module")
def old() -> Iterator[Named]:
    with Named("old") as backend:
        yield backend


@pytest.fixture(scope="module")
def new() -> Iterator[Named]:
    with Named("new") as backend:
        yield backend


def by_service(*names: str) -> dict[str, Any]:
    """A listener for each service, and the service named ``web`` for the first one."""
    listeners = [{"name": name, "address": "127.0.0.1:0", "target_service_name": name} for name in names]
    return {"registry_file": "registry.yaml", "listeners": listeners}


def ask(charon: CharonProcess, listener: str | None = None) -> tuple[int, str]:
    with RawClient(charon.port(listener)) as client:
        response = client.get()
        return response.status, response.error or response.body.decode()


def in_force(charon: CharonProcess, generation: int) -> bool:
    """Whether every worker follows the services of this generation (the first is that of the start)."""
    status = json.loads(charon.admin("/api/status")[1])
    return all(worker["generation"] >= generation for worker in status["workers"])


class Busy:
    """A client that asks without pause, and remembers who has answered."""

    def __init__(self, charon: CharonProcess) -> None:
        self.failures: list[object] = []
        self.count = 0
        self.seen: set[str] = set()
        self._charon = charon
        self._port = charon.port()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Busy:
        self._thread.start()
        eventually(lambda: self.count > 20)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with RawClient(self._port) as client:
                    for _ in range(5):
                        response = client.get()
                        if response.status != 200:
                            self.failures.append((response.status, response.error))
                        self.seen.add(response.body.decode())
                        self.count += 1
            except (OSError, AssertionError) as error:
                self.failures.append(error)


# -- what can be written ----------------------------------------------------------------------------------------------


def test_one_address_many_addresses_and_weights(start_charon: StartCharon, old: Named, new: Named) -> None:
    weighted = [{"address": old.address, "weight": 3}, {"address": new.address, "weight": 1}]
    charon = start_charon(
        by_service("One", "many", "weighted"),
        {"One": old.address, "many": [old.address, new.address], "weighted": {"addresses": weighted}},
    )
    assert [ask(charon, "One") for _ in range(3)] == [(200, "old")] * 3
    answers = [ask(charon, "many")[1] for _ in range(10)]
    assert Counter(answers) == {"old": 5, "new": 5}
    assert all(first != second for first, second in itertools.pairwise(answers)), "in turn"
    assert Counter(ask(charon, "weighted")[1] for _ in range(40)) == {"old": 30, "new": 10}


def test_a_name_is_resolved(start_charon: StartCharon, old: Named) -> None:
    charon = start_charon(by_service("web"), {"web": f"localhost:{old.port}"})
    assert ask(charon) == (200, "old")
    assert charon.wait_for_event("http_request")["upstream"] == f"localhost:{old.port}"


# -- how it can change ------------------------------------------------------------------------------------------------


def in_place(charon: CharonProcess, services: dict[str, str]) -> None:
    charon.write_registry(services, in_place=True)


def by_rename(charon: CharonProcess, services: dict[str, str]) -> None:
    charon.write_registry(services)


def by_symlink(charon: CharonProcess, services: dict[str, str]) -> None:
    """As configuration management and Kubernetes do: a new folder, and one link that is swapped."""
    folder = charon.folder / "version-2"
    folder.mkdir()
    (folder / "registry.yaml").write_text(f"services: {services}\n")
    link = charon.folder / "next"
    link.symlink_to(folder)
    link.rename(charon.folder / "current")


def by_deletion(charon: CharonProcess, services: dict[str, str]) -> None:
    charon.registry_path.unlink()
    charon.wait_for_event("registry_reload_failed")
    assert ask(charon) == (200, "old"), "the last good one stays in force"
    charon.write_registry(services, in_place=True)


@pytest.mark.parametrize("change", [in_place, by_rename, by_symlink, by_deletion])
def test_a_change_takes_effect_and_no_request_fails(
    make_charon: StartCharon, old: Named, new: Named, change: Callable[[CharonProcess, dict[str, str]], None]
) -> None:
    config = by_service("web")
    if change is by_symlink:
        config["registry_file"] = "current/registry.yaml"
    charon = make_charon(config, {"web": old.address}, workers=2)
    if change is by_symlink:
        first = charon.folder / "version-1"
        first.mkdir()
        charon.registry_path.rename(first / "registry.yaml")
        (charon.folder / "current").symlink_to(first)
    charon.start()
    with Busy(charon) as client:
        assert client.seen == {"old"}
        change(charon, {"web": new.address})
        eventually(lambda: "new" in client.seen)
        eventually(lambda: ask(charon) == (200, "new"))
        count = client.count
        eventually(lambda: client.count > count + 20)
    assert client.failures == []
    reloaded = charon.wait_for_event("registry_reloaded")
    assert (reloaded["services"], reloaded["endpoints"], reloaded["changed_count"]) == (1, 1, 1)


def test_many_changes_in_a_row_end_with_the_last_one(start_charon: StartCharon, old: Named, new: Named) -> None:
    charon = start_charon(by_service("web"), {"web": old.address}, workers=2)
    with Busy(charon) as client:
        for number in range(60):
            charon.write_registry({"web": (old, new)[number % 2].address}, in_place=number % 3 == 0)
        eventually(lambda: all(ask(charon) == (200, "new") for _ in range(10)))
    assert client.failures == []


def test_services_come_and_go(start_charon: StartCharon, old: Named, new: Named) -> None:
    charon = start_charon(by_service("web", "more"), {"web": old.address})
    assert ask(charon, "more") == (503, "unknown_service")
    charon.write_registry({"web": old.address, "more": new.address})
    assert charon.wait_for_event("registry_reloaded")["added"] == ["more"]
    eventually(lambda: ask(charon, "more") == (200, "new"))
    upstream = {"service": "more", "upstream": new.address}
    assert sample(charon.metrics(), "charon_upstream_connects_total", result="ok", **upstream) == 1
    charon.write_registry({"web": old.address})
    eventually(lambda: ask(charon, "more") == (503, "unknown_service"))
    gone = [key for key in charon.metrics() if ("service", "more") in key[1]]
    assert gone == [], "the series of what has left are dropped"
    assert ask(charon, "web") == (200, "old")


# -- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("services:\n  web: [127.0.0.1:1\n", 3),
        ("services:\n  web: 127.0.0.1:http\n", 2),
        ("services:\n  web: 127.0.0.1:1\n  web: 127.0.0.1:2\n", 3),
        ("servces:\n  web: 127.0.0.1:1\n", 1),
        ("", 1),
    ],
    ids=["bad YAML", "bad address", "named twice", "unknown key", "empty"],
)
def test_a_broken_file_leaves_the_last_good_one_in_force(
    repaired: CharonProcess, old: Named, new: Named, text: str, line: int
) -> None:
    charon, mark = repaired, repaired.mark()
    loaded = sample(charon.metrics(), "charon_registry_last_reload_success_timestamp_seconds")
    assert loaded > 0
    charon.write_registry(text)
    failed = charon.wait_for_event("registry_reload_failed", since=mark, level="error", services_kept=1)
    assert failed["problems"][0].startswith(f"{charon.registry_path}:{line}: ")
    assert ask(charon) == (200, "old")
    metrics = charon.metrics()
    assert sample(metrics, "charon_registry_last_reload_successful") == 0
    assert sample(metrics, "charon_registry_last_reload_success_timestamp_seconds") == loaded
    charon.write_registry({"web": new.address})
    eventually(lambda: ask(charon) == (200, "new"))
    metrics = charon.metrics()
    assert sample(metrics, "charon_registry_last_reload_successful") == 1
    assert sample(metrics, "charon_registry_last_reload_success_timestamp_seconds") > loaded
    told = [line for line in charon.log_lines()[mark:] if line["message"] == "registry_reload_failed"]
    assert len(told) == 1, "told once, not at every look"


@pytest.fixture(scope="module")
def shared(start_shared_charon: StartCharon, old: Named) -> CharonProcess:
    return start_shared_charon(by_service("web"), {"web": old.address})


@pytest.fixture
def repaired(shared: CharonProcess, old: Named) -> CharonProcess:
    """One Charon for all of the broken files, each of which finds it with a good one in force."""
    shared.write_registry({"web": old.address})
    eventually(lambda: ask(shared) == (200, "old"))
    return shared


# -- what is under way ------------------------------------------------------------------------------------------------


def test_a_request_under_way_to_a_removed_address_finishes(
    start_charon: StartCharon, backend: ScriptedBackend, new: Named
) -> None:
    arrived, answer = threading.Event(), threading.Event()

    def hold(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        arrived.set()
        assert answer.wait(10)
        connection.send(b" last")
        assert connection.wait_for_end(), "and the connection is not kept for another request"

    backend.script = hold
    charon = start_charon(by_service("web"), {"web": backend.address})
    with RawClient(charon.port()) as client:
        client.request("GET /")
        assert arrived.wait(10)
        charon.write_registry({"web": new.address})
        eventually(lambda: in_force(charon, 2))
        assert ask(charon) == (200, "new")
        answer.set()
        response = client.read_response()
        assert (response.status, response.body) == (200, b"first last")
        assert client.get().body == b"new", "the next request of the same connection goes to the new address"


def test_a_tcp_connection_to_a_removed_address_goes_on(
    start_charon: StartCharon, backend: ScriptedBackend, new: Named
) -> None:
    def echo(connection: Connection) -> None:
        while data := connection.recv():
            connection.send(data)

    backend.script = echo
    charon = start_charon({**by_service("web"), "protocol": "tcp"}, {"web": backend.address})
    with RawClient(charon.port()) as client:
        client.send(b"before")
        assert client.recv_exactly(6) == b"before"
        charon.write_registry({"web": new.address})
        eventually(lambda: in_force(charon, 2))
        assert ask(charon) == (200, "new")
        client.send(b"after")
        assert client.recv_exactly(5) == b"after"
        client.half_close()
        assert client.ended()
