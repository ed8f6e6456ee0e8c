"""Certificates while Charon runs: what is told, what changes, and what never takes the place of what is in force."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gevent import Greenlet

from charon.base.clock import FakeClock
from charon.base.errors import StartError
from charon.config.certificates import MaterialSource
from charon.config.snapshot import TlsMaterial
from charon.daemon.certificate_keeper import READ_SECONDS, REMIND_SECONDS, RETRY_SECONDS, CertificateKeeper
from charon.identity import authority
from charon.identity.folder import write_pairs
from charon.identity.keys import new_key, pem_of
from charon.telemetry.events import EventLog
from charon.telemetry.exposition import Totals
from charon.telemetry.sink import LogSink
from tests.harness.charon import parse_metrics, sample
from tests.identity.conftest import DAY, NOW, MakeSource


class World:
    """A keeper with its log and its metrics; it watches only when told to."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock(wall=NOW)
        self.totals = Totals()
        self._log = folder / "log"
        self._sink = LogSink(str(self._log))
        self._seen = 0
        self.keeper = CertificateKeeper(EventLog(self._sink), self.totals, self.clock, lambda: None)

    def keep(self, *sources: MaterialSource) -> None:
        self.keeper.adopt(self.keeper.prepare({str(number): source for number, source in enumerate(sources)}))

    def material(self) -> TlsMaterial:
        return self.keeper.materials()["0"]

    def later(self, seconds: float) -> bool:
        """Some time goes by, and all is looked after once."""
        self.clock.advance(seconds)
        return self.keeper.look()

    def told(self) -> list[tuple[str, str]]:
        """Level and name of every event since the last time."""
        return [(line["level"], line["message"]) for line in self.lines()]

    def lines(self) -> list[dict[str, Any]]:
        self._sink.flush()
        lines = [json.loads(line) for line in self._log.read_text().splitlines()]
        new, self._seen = lines[self._seen :], len(lines)
        return new

    def metric(self, name: str, file: str | None) -> float:
        return sample(parse_metrics(self.totals.render()[1].decode()), name, file=str(file))

    def close(self) -> None:
        self.keeper.stop()
        self._sink.close()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("charon.daemon.certificate_keeper.spawn", lambda name, function: Greenlet(function))
    made = World(tmp_path)
    yield made
    made.close()


def given(source: MakeSource, tmp_path: Path, **plan: object) -> MaterialSource:
    """The source of a sidecar: a certificate, and no key of the authority."""
    wanted = source(**plan)
    assert wanted.plan is not None
    write_pairs(authority.create(str(tmp_path / "ca"), "example.org", NOW), wanted.plan.folder, wanted.plan, NOW)
    return wanted


def test_certificates_are_made_told_and_renewed(world: World, source: MakeSource) -> None:
    wanted = source()
    world.keep(wanted)
    made, issued = world.lines()
    assert (made["message"], made["file"], made["why"]) == (
        "certificate_issued",
        wanted.ca_file,
        "there was no authority",
    )
    assert (issued["message"], issued["identity"]) == ("certificate_issued", "spiffe://example.org/web")
    assert issued["not_after"] == "2027-01-16T08:00:00Z"
    first = world.material()
    assert world.metric("charon_certificate_not_after_seconds", wanted.cert_file) == NOW + DAY
    assert not world.later(0.6 * DAY), "read again, and found as it was"
    assert world.told() == []
    assert world.later(0.08 * DAY)
    assert world.material() != first and world.material().roots == first.roots
    (renewed,) = world.lines()
    assert (renewed["level"], renewed["message"]) == ("info", "certificate_renewed")
    assert renewed["why"] == "two thirds of its life are over"
    assert world.metric("charon_certificate_not_after_seconds", wanted.cert_file) == NOW + 1.68 * DAY
    (own, root) = world.keeper.status()
    assert (own["identity"], own["days_left"], own["source"]) == ("spiffe://example.org/web", 1, "charon")
    assert (root["kind"], root["file"], round(root["days_left"] / 365.25)) == ("authority", wanted.ca_file, 10)


def test_new_files_take_effect_and_bad_ones_do_not(world: World, source: MakeSource, tmp_path: Path) -> None:
    wanted = given(source, tmp_path)
    assert wanted.plan is not None
    world.keep(wanted)
    first = world.material()
    issuer = authority.load(str(tmp_path / "ca"))
    assert issuer is not None
    write_pairs(issuer, wanted.plan.folder, wanted.plan, NOW)
    assert world.later(1)
    second = world.material()
    assert second != first
    assert world.lines()[-1]["why"] == "the files changed"

    key = Path(wanted.key_file or "")
    good = key.read_bytes()
    key.write_bytes(pem_of(new_key()))
    assert not world.later(1)
    assert world.told() == [], "perhaps the other file is being written"
    assert not world.later(1)
    (failed,) = world.lines()
    assert (failed["level"], failed["message"]) == ("error", "certificate_failed")
    assert failed["problem"] == f"{key}: the key does not belong to the first certificate in {wanted.cert_file}"
    assert world.material() == second
    assert world.keeper.status()[0]["problem"] == failed["problem"]
    assert world.metric("charon_certificate_failures_total", wanted.cert_file) == 1
    for _ in range(3):
        assert not world.later(RETRY_SECONDS)
    assert world.told() == [], "it is told once"
    assert world.metric("charon_certificate_failures_total", wanted.cert_file) == 4
    assert not world.later(REMIND_SECONDS)
    assert world.told() == [("error", "certificate_failed")], "and again each hour"
    key.write_bytes(good)
    assert not world.later(1)
    assert world.keeper.status()[0]["problem"] is None
    key.write_bytes(pem_of(new_key()))
    assert not world.later(1) and not world.later(1)
    assert world.told() == [("error", "certificate_failed")], "the next time it is news"


def test_a_pair_caught_between_its_two_files_is_read_again(world: World, source: MakeSource, tmp_path: Path) -> None:
    wanted = given(source, tmp_path)
    world.keep(wanted)
    other = replace(wanted.plan, folder=str(tmp_path / "next"))  # type: ignore[type-var]
    write_pairs(authority.load(str(tmp_path / "ca")), str(tmp_path / "next"), other, NOW)  # type: ignore[arg-type]
    (tmp_path / "next/server-key.pem").rename(wanted.key_file or "")
    assert not world.later(1)
    (tmp_path / "next/server-cert.pem").rename(wanted.cert_file or "")
    assert world.later(1)
    assert world.told() == [("info", "certificate_renewed")]


def test_a_change_that_no_look_shows_is_found_within_a_minute(
    world: World, source: MakeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = given(source, tmp_path)
    world.keep(wanted)
    monkeypatch.setattr("charon.daemon.certificate_keeper.observe", lambda path: None)
    assert not world.later(1)
    root = authority.create(str(tmp_path / "other"), "example.org", NOW)
    with open(wanted.ca_file or "", "ab") as bundle:
        bundle.write(authority.certificates_pem(root.roots))
    assert not world.later(1)
    assert world.later(READ_SECONDS)


def test_what_cannot_be_renewed_is_loud_and_no_crash(world: World, source: MakeSource, tmp_path: Path) -> None:
    world.keep(given(source, tmp_path))
    world.later(0.8 * DAY)
    assert world.told() == []
    world.later(0.05 * DAY)
    (soon,) = world.lines()
    assert (soon["level"], soon["message"]) == ("warning", "certificate_expiring")
    assert soon["problem"].endswith("server-cert.pem: the certificate expires in 3 hours")
    world.later(60)
    assert world.told() == []
    world.later(0.2 * DAY)
    (late,) = world.lines()
    assert (late["level"], late["message"]) == ("error", "certificate_expiring")
    assert "the certificate has expired" in late["problem"]
    assert world.material().chain, "peers are better at refusing it than we are"
    assert world.keeper.status()[0]["days_left"] < 0


def test_an_authority_of_two_materials_is_told_of_once(world: World, source: MakeSource, tmp_path: Path) -> None:
    wanted = given(source, tmp_path)
    client = replace(wanted, cert_file=f"{tmp_path}/certs/client-cert.pem", key_file=f"{tmp_path}/certs/client-key.pem")
    world.keep(wanted, client)
    world.later(3640 * DAY)
    files = sorted(Path(line["problem"].partition(":")[0]).name for line in world.lines())
    assert files == ["ca-cert.pem", "client-cert.pem", "server-cert.pem"]


def test_a_renewal_that_fails_leaves_what_is_in_force(world: World, source: MakeSource) -> None:
    wanted = source()
    world.keep(wanted)
    before = world.material()
    key = Path(wanted.key_file or "").with_name("ca-key.pem")
    key.chmod(0o644)
    world.lines()
    assert not world.later(0.7 * DAY) and not world.later(1)
    (failed,) = world.lines()
    assert failed["message"] == "certificate_failed" and "ca-key.pem: others may read" in failed["problem"]
    assert world.material() == before
    key.chmod(0o600)
    assert world.later(RETRY_SECONDS)
    assert world.told() == [("info", "certificate_renewed")]


def test_a_configuration_that_cannot_be_had_changes_nothing(world: World, source: MakeSource, tmp_path: Path) -> None:
    wanted = source()
    world.keep(wanted)
    before = world.material()
    bad = MaterialSource(cert_file=str(tmp_path / "no.pem"), key_file=str(tmp_path / "no-key.pem"))
    with pytest.raises(StartError, match=r"no\.pem: there is no such file"):
        world.keeper.prepare({"0": wanted, "1": bad})
    assert world.keeper.materials() == {"0": before}
    world.keeper.adopt(world.keeper.prepare({}))
    assert (world.keeper.materials(), world.keeper.status()) == ({}, [])
    assert world.metric("charon_certificate_not_after_seconds", wanted.cert_file) == 0, "no series is left"
