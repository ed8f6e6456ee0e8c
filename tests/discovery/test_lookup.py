"""Where one answer to one name comes from: the hosts file, loopback by definition, the name servers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import gevent
import pytest

from charon.discovery.lookup import Addresses, Lookup, LookupFailed, SystemFiles, needs_system, parse_hosts
from tests.discovery.dns_server import DnsServer
from tests.discovery.support import PATIENCE, spawn

Make = Callable[..., Lookup]


@pytest.fixture
def make(dns_server: DnsServer, tmp_path: Path, hosts: Path) -> Make:
    def build(resolv_conf: str = "", **options: float) -> Lookup:
        conf = tmp_path / "resolv.conf"
        conf.write_text(resolv_conf)
        files = SystemFiles(str(hosts), str(conf), str(tmp_path / "nsswitch.conf"))
        return Lookup(spawn, nameservers=[dns_server.address], files=files, **options)

    return build


def test_both_families_and_the_shorter_time_to_live(make: Make, dns_server: DnsServer) -> None:
    dns_server.zone["web.test.", "A"] = (60, ["10.0.0.10", "10.0.0.9"])
    dns_server.zone["web.test.", "AAAA"] = (30, ["fd00::1"])
    assert make().find("web.test") == Addresses(("10.0.0.9", "10.0.0.10"), ("fd00::1",), 30.0)


def test_a_name_of_one_family(make: Make, dns_server: DnsServer) -> None:
    dns_server.put("six.test.", "fd00::1")
    assert make().find("six.test") == Addresses((), ("fd00::1",), 60.0)


def test_a_cut_answer_is_asked_for_again_over_tcp(make: Make, dns_server: DnsServer) -> None:
    many = [f"10.0.{number >> 8}.{number & 255}" for number in range(1000)]
    dns_server.put("big.test.", *many)
    dns_server.truncated.add("big.test.")
    found = make().find("big.test")
    assert found.ipv4 is not None
    assert set(found.ipv4) == set(many)
    assert dns_server.count("big.test.", protocol="tcp") == 1


def test_no_such_name(make: Make) -> None:
    with pytest.raises(LookupFailed, match="does not exist") as failure:
        make().find("nowhere.test")
    assert failure.value.missing


def test_a_name_without_addresses(make: Make, dns_server: DnsServer) -> None:
    dns_server.put("text.test.")
    with pytest.raises(LookupFailed, match="no address") as failure:
        make().find("text.test")
    assert failure.value.missing


def test_a_server_that_fails(make: Make, dns_server: DnsServer) -> None:
    dns_server.broken.add("web.test.")
    with pytest.raises(LookupFailed, match="SERVFAIL") as failure:
        make(lifetime=0.3).find("web.test")
    assert not failure.value.missing


def test_a_server_that_is_silent(make: Make, dns_server: DnsServer) -> None:
    dns_server.silent.add("web.test.")
    with pytest.raises(LookupFailed, match=r"timed out|lifetime expired") as failure:
        make(lifetime=0.2, attempt=0.1).find("web.test")
    assert not failure.value.missing


def test_a_dead_server_is_passed_by(dns_server: DnsServer, hosts: Path, tmp_path: Path) -> None:
    dns_server.put("web.test.", "10.0.0.1")
    dead = DnsServer(spawn)
    dead.stop()
    files = SystemFiles(str(hosts), str(tmp_path / "none"), str(tmp_path / "none"))
    lookup = Lookup(spawn, nameservers=[dead.address, dns_server.address], files=files, attempt=0.1)
    assert lookup.find("web.test").ipv4 == ("10.0.0.1",)


def test_a_server_silent_about_ipv6_does_not_hold_up_ipv4(make: Make, dns_server: DnsServer) -> None:
    dns_server.put("web.test.", "10.0.0.1")
    dns_server.silent_types.add("AAAA")
    with gevent.Timeout(PATIENCE):
        found = make(lifetime=300.0, attempt=300.0).find("web.test")
    assert found == Addresses(("10.0.0.1",), None, 60.0)


def test_the_search_list_is_tried_first_below_ndots(make: Make, dns_server: DnsServer) -> None:
    dns_server.put("web.default.svc.", "10.0.0.1")
    lookup = make("search other.svc default.svc\noptions ndots:2\n")
    assert lookup.find("web").ipv4 == ("10.0.0.1",)
    order = [name for name, group in itertools.groupby(name for name, kind, _ in dns_server.asked if kind == "A")]
    assert order == ["web.other.svc.", "web.default.svc."]


def test_the_search_list_comes_second_from_ndots_on_and_never_after_a_final_dot(
    make: Make, dns_server: DnsServer
) -> None:
    dns_server.put("a.b.", "10.0.0.1")
    lookup = make("search default.svc\n")
    lookup.find("a.b")
    lookup.find("a.b.")
    assert {name for name, _, _ in dns_server.asked} == {"a.b."}


def test_resolv_conf_is_read_again_when_it_changes(make: Make, dns_server: DnsServer, tmp_path: Path) -> None:
    dns_server.put("web.new.svc.", "10.0.0.1")
    lookup = make("search old.svc\n")
    with pytest.raises(LookupFailed):
        lookup.find("web")
    (tmp_path / "resolv.conf").write_text("search new.svc new.svc\n")
    assert lookup.find("web").ipv4 == ("10.0.0.1",)


def test_the_hosts_file_comes_first_and_is_read_again(make: Make, dns_server: DnsServer, hosts: Path) -> None:
    dns_server.put("web.test.", "10.0.0.1")
    hosts.write_text("10.9.9.9 Web.Test alias # a comment\nfd00::9 web.test\nbroken\n")
    lookup = make()
    found = lookup.find("WEB.test")
    assert (found.ipv4, found.ipv6) == (("10.9.9.9",), ("fd00::9",))
    assert lookup.find("alias").ipv4 == ("10.9.9.9",)
    assert dns_server.asked == []
    hosts.write_text("")
    assert lookup.find("web.test").ipv4 == ("10.0.0.1",)


def test_localhost_is_loopback_whatever_a_server_says(make: Make, dns_server: DnsServer) -> None:
    dns_server.put("localhost.", "10.6.6.6")
    for name in ("localhost", "LOCALHOST.", "app.localhost"):
        found = make().find(name)
        assert found.ipv4 == ("127.0.0.1",)
        assert found.ipv6 in (("::1",), ())
    assert dns_server.asked == []


def test_localhost_as_the_hosts_file_has_it(make: Make, hosts: Path) -> None:
    hosts.write_text("127.0.0.1 localhost\n::1 localhost ip6-localhost\n")
    found = make().find("localhost")
    assert (found.ipv4, found.ipv6) == (("127.0.0.1",), ("::1",))


@pytest.mark.parametrize("name", ["a..b", "x" * 64 + ".test", "." + "y" * 300])
def test_an_impossible_name_is_a_failed_lookup(make: Make, name: str) -> None:
    with pytest.raises(LookupFailed):
        make().find(name)


def test_no_name_server_configured(hosts: Path, tmp_path: Path) -> None:
    none = str(tmp_path / "none")
    with pytest.raises(LookupFailed, match="no name server"):
        Lookup(spawn, files=SystemFiles(str(hosts), none, none)).find("web.test")


def test_a_broken_resolv_conf_is_a_failed_lookup(hosts: Path, tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver not-an-address\n")
    with pytest.raises(LookupFailed, match=r"resolv\.conf"):
        Lookup(spawn, files=SystemFiles(str(hosts), str(conf), str(tmp_path / "none"))).find("web.test")


def test_the_system_is_asked_where_it_has_other_sources(hosts: Path, tmp_path: Path) -> None:
    nsswitch = tmp_path / "nsswitch.conf"
    nsswitch.write_text("hosts: files mdns4_minimal [NOTFOUND=return] dns\n")
    none = str(tmp_path / "none")
    # The machine's own hosts file knows this name; the one handed in, and the absent name servers, do not.
    known = next(iter(parse_hosts(Path("/etc/hosts").read_text()).keys() - {"localhost"}), None)
    if known is None:
        pytest.skip("the machine's hosts file holds no other name than localhost")
    found = Lookup(spawn, files=SystemFiles(str(hosts), none, str(nsswitch))).find(known)
    assert found.ipv4 or found.ipv6
    with pytest.raises(LookupFailed, match="no name server"):
        Lookup(spawn, files=SystemFiles(str(hosts), none, none)).find(known)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("hosts: files dns", False),
        ("hosts: files resolve [!UNAVAIL=return] dns myhostname", False),
        ("hosts: files mdns4_minimal [NOTFOUND=return] dns", True),
        ("hosts:\tfiles dns wins # x", True),
        ("# hosts: wins\npasswd: ldap", False),
        ("", False),
    ],
)
def test_which_nsswitch_needs_the_system(line: str, expected: bool) -> None:
    assert needs_system(line) is expected
