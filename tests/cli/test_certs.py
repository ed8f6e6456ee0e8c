"""`charon certs` and what `charon check` says of certificates."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from charon.base.clock import SystemClock
from charon.cli import main
from charon.cli.certs_show import validity
from charon.cli.terminal import Style
from charon.identity.authority import new_request
from charon.identity.keys import new_key
from charon.identity.spiffe import Facts

ID = "spiffe://example.org"

Run = Callable[..., tuple[int, str]]
"""``charon("certs", ...)``: exit code and output, that of standard error where there is no other."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def charon(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main.main([*arguments])
        out, err = capsys.readouterr()
        assert "\033" not in out, "colours are for terminals"
        return code, out or err

    return run


def test_the_authority_issues_and_signs(charon: Run, folder: Path) -> None:
    assert charon("certs", "init", "--dir", "ca", "--trust-domain", "example.org")[0] == 0
    assert charon("certs", "init", "--dir", "ca") == (1, "charon: ca/ca-cert.pem: there is an authority already\n")
    code, said = charon("certs", "issue", "api", "--dir", "ca", "--dns", "API.example.com", "--ip", "::1")
    assert (code, said) == (0, f"issued {ID}/api for 90 days into ca/api, which serves as tls.cert_dir\n")
    assert sorted(path.name for path in (folder / "ca/api").iterdir()) == [
        "ca-cert.pem", "client-cert.pem", "client-key.pem", "server-cert.pem", "server-key.pem",
    ]  # fmt: skip
    assert stat.S_IMODE((folder / "ca/api/client-key.pem").stat().st_mode) == 0o600

    assert charon("certs", "request", "web", "--dir", "host", "--trust-domain", "example.org")[0] == 0
    key = (folder / "host/server-key.pem").read_bytes()
    sign = ("certs", "sign", "host/request.pem", "--dir", "ca", "--lifetime", "30d")
    assert charon(*sign, "--service", "api") == (
        1,
        f"charon: host/request.pem: the request is for {ID}/web, not for api\n",
    )
    assert charon(*sign, "--service", "web")[0] == 0
    (folder / "host/request-cert.pem").rename(folder / "host/server-cert.pem")
    (folder / "host/ca-cert.pem").write_bytes((folder / "ca/ca-cert.pem").read_bytes())
    code, said = charon("certs", "show", "--dir", "host")
    assert code == 0
    assert "  ca-key.pem is not here: certificates are issued elsewhere\n" in said
    assert f"  certificate  CN=web\n  identity     {ID}/web\n  names        web, localhost, " in said
    assert "  valid        until " in said and ", 29 days left\n" in said

    assert charon("certs", "request", "web", "--dir", "host", "--trust-domain", "example.org")[0] == 0
    assert (folder / "host/server-key.pem").read_bytes() == key, "the certificate in use keeps its key"
    code, said = charon("certs", "request", "web", "--dir", "host", "--new-key")
    assert code == 1 and "belongs to server-cert.pem" in said


def test_what_cannot_be_signed(charon: Run, folder: Path) -> None:
    charon("certs", "init", "--dir", "ca", "--trust-domain", "example.org")
    for identity, why in (
        ("spiffe://other.org/web", "of the trust domain example.org and does not issue spiffe://other.org/web"),
        ("https://example.org/web", "has no SPIFFE identity, or more than one"),
    ):
        (folder / "r.pem").write_bytes(new_request(new_key(), identity, ["web"]))
        code, said = charon("certs", "sign", "r.pem", "--dir", "ca")
        assert code == 1 and why in said
    code, said = charon("certs", "issue", "a//b", "--dir", "ca")
    assert code == 1 and "'a//b' cannot be the name in an identity" in said
    code, said = charon("certs", "issue", "a", "--dir", "nowhere")
    assert (code, said) == (
        1,
        "charon: nowhere/ca-key.pem: there is no such file; this is done where the authority is\n",
    )
    code, said = charon("certs", "rotate", "--dir", "ca")
    assert code == 1 and "there is no certificate to renew" in said
    code, said = charon("certs", "show", "--dir", "nowhere")
    assert (code, said) == (1, "charon: nowhere: there is no such file\n")
    (folder / "empty").mkdir()
    code, said = charon("certs", "show", "--dir", "empty")
    assert (code, said) == (1, "charon: empty: there is neither an authority nor a certificate here\n")


@pytest.mark.parametrize(
    "argv",
    [
        ["certs"],
        ["certs", "bogus"],
        ["certs", "issue"],
        ["certs", "issue", "a", "--dns", "a b"],
        ["certs", "issue", "a", "--ip", "a"],
        ["certs", "issue", "a", "--lifetime", "soon"],
        ["certs", "init", "--trust-domain", "A"],
        ["certs", "init", "--years", "0"],
        ["certs", "rotate", "--root", "all"],
        ["check", "--cert-min-days", "soon"],
    ],
)
def test_wrong_usage_exits_with_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(argv)
    assert ended.value.code == 2


def test_how_long_a_certificate_lives_is_coloured_for_people() -> None:
    facts = Facts(None, (), "CN=a", "CN=b", 1, 0.0, 86_400.0)
    assert validity(facts, Style(True), 1000.0).mark("x") == "\033[32mx\033[0m"
    assert validity(facts, Style(True), 80_000.0).mark("x") == "\033[31mx\033[0m"
    late = validity(facts, Style(True), 90_000.0)
    assert late.text == "until 1970-01-02 00:00:00 UTC: has expired 60 minutes ago"
    assert late.mark("x") == "\033[31mx\033[0m"


@contextmanager
def openssl_server(*arguments: str) -> Iterator[int]:
    """`openssl s_server` with these arguments; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-quiet", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE) as server:
        try:
            while server.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port), 5).close()
                    break
                except ConnectionRefusedError:
                    continue
            yield port
        finally:
            server.kill()


def test_verify_says_what_a_peer_shows_and_whether_it_will_do(charon: Run, folder: Path) -> None:
    charon("certs", "init", "--dir", "ca", "--trust-domain", "example.org")
    charon("certs", "issue", "api", "--dir", "ca")
    charon("certs", "issue", "web", "--dir", "ca")
    charon("certs", "init", "--dir", "other", "--trust-domain", "example.org")
    pair = ("-cert", "ca/api/server-cert.pem", "-key", "ca/api/server-key.pem", "-CAfile", "ca/ca-cert.pem")
    with openssl_server(*pair, "-Verify", "2", "-verify_return_error") as port:
        verify = ("certs", "verify", f"127.0.0.1:{port}", "--dir")
        code, said = charon(*verify, "ca/web", "--identity", f"{ID}/api")
        assert code == 0, said
        assert f"  identity     {ID}/api\n" in said and f"  shown to it  {ID}/web\n" in said
        assert said.endswith("  verdict      accepted\n")
        for arguments, why in (
            (("ca/web", "--identity", f"{ID}/web"), f"its identity is {ID}/api, not {ID}/web"),
            (("ca/web", "--server-name", "web.example.com"), "its certificate is not for web.example.com"),
            (("other",), "its certificate is refused: self-signed certificate in certificate chain"),
            (("other",), "it refuses what we show: tlsv13 alert certificate required"),
        ):
            code, said = charon(*verify, *arguments)
            assert code == 1 and "  verdict      refused\n" in said and f"  {why}\n" in said, said
        code, said = charon(*verify, "nowhere")
        assert code == 1 and "there is nothing to trust: no nowhere/ca-cert.pem" in said
        assert f"identity     {ID}/api" in said, "what it shows is shown all the same"
    code, said = charon("certs", "verify", f"127.0.0.1:{port}", "--dir", "ca/web")
    assert (code, said) == (3, f"charon: cannot connect to 127.0.0.1:{port}: connection refused\n")
    assert charon("certs", "verify", "127.0.0.1", "--dir", "ca/web")[0] == 1
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        code, said = charon("certs", "verify", f"127.0.0.1:{port}", "--dir", "ca/web", "--timeout", "1s")
        assert code == 1 and "no answer to the handshake within 1s" in said


def test_check_judges_the_certificates_that_are_needed(charon: Run, folder: Path) -> None:
    charon("certs", "init", "--dir", "ca")
    charon("certs", "issue", "charon", "--dir", "ca", "--out", "certs", "--lifetime", "20d")
    config = folder / "config.yaml"
    config.write_text("target_service_addr: localhost:1\ntls: {enabled: true, cert_dir: new, upstream_tls: true}\n")
    code, said = charon("check")
    assert code == 0
    assert said.count("is made when Charon starts") == 2 and not (folder / "new").exists()

    config.write_text("target_service_addr: localhost:1\ntls: {enabled: true, cert_dir: certs}\n")
    code, said = charon("check")
    assert code == 0 and "spiffe://charon.local/charon  until" in said
    assert charon("check", "--cert-min-days", "9")[0] == 0
    code, said = charon("check", "--cert-min-days", "9.9999999")
    assert code == 0, "half of its life is the most that can be asked of it"
    charon("certs", "issue", "charon", "--dir", "ca", "--out", "certs", "--lifetime", "5s")
    code, said = charon("check", "--cert-min-days", "0")
    assert code == 0
    key = folder / "certs/server-key.pem"
    key.chmod(0o640)
    code, said = charon("check")
    assert (code, said) == (
        1,
        f"{key}: others may read or change this key (mode 0640); chmod 600 {key}\n1 mistake\n",
    )


def test_check_tells_what_has_expired_or_soon_will(charon: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    charon("certs", "init", "--dir", "ca")
    charon("certs", "issue", "charon", "--dir", "ca", "--out", "certs", "--lifetime", "60d")
    charon("certs", "issue", "charon", "--dir", "ca", "--out", "ca", "--lifetime", "60d")
    config = folder / "config.yaml"

    def checked(cert_dir: str, *arguments: str) -> tuple[int, str]:
        config.write_text(f"target_service_addr: localhost:1\ntls: {{enabled: true, cert_dir: {cert_dir}}}\n")
        return charon("check", *arguments)

    certs = [folder / "certs/server-cert.pem", folder / "certs/client-cert.pem"]
    assert checked("certs")[0] == 0
    code, said = checked("certs", "--cert-min-days", "61")
    assert code == 0, "one that lives for 60 days cannot be good for 61"
    real = SystemClock.wall
    for days, why in ((54, "expires in 5 days"), (61, "has expired 24 hours ago")):
        monkeypatch.setattr(SystemClock, "wall", lambda self, days=days: real(self) + days * 86_400)
        told = "".join(f"{cert}: the certificate {why}\n" for cert in certs)
        assert checked("certs") == (1, f"{told}2 mistakes\n")
        code, said = checked("ca")
        assert code == 0 and "renewed by Charon" in said, "it is, as soon as Charon starts"
        assert checked("ca", "--cert-min-days", "7")[0] == 1


def test_certificates_take_their_library_only_where_they_are_used(folder: Path) -> None:
    (folder / "config.yaml").write_text("target_service_addr: localhost:1\n")
    code = "import sys; from charon.cli.main import main; print(main(['check'])); print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-2:] == ["0", "False"]
    worker = "import sys, charon.daemon.worker, charon.daemon.supervisor; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", worker], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
