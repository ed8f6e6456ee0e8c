"""Listening sockets: every kind of address, one for each worker slot, and words for what goes wrong."""

from __future__ import annotations

import contextlib
import os
import socket as std
from _socket import socket as RawSocket
from collections.abc import Iterator
from pathlib import Path

import pytest

from charon.base.errors import StartError
from charon.net.listen import adopt, bound_address, listen, listens_on, remove, widen


@contextlib.contextmanager
def listening(address: str, slots: int = 1) -> Iterator[list[RawSocket]]:
    sockets = listen(address, slots)
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def connects(family: int, target: object) -> bool:
    with contextlib.closing(RawSocket(family, std.SOCK_STREAM)) as sock:
        return sock.connect_ex(target) == 0


def port_of(sockets: list[RawSocket]) -> int:
    port: int = sockets[0].getsockname()[1]
    return port


def test_all_slots_share_the_port_that_the_first_one_found() -> None:
    with listening("127.0.0.1:0", 4) as sockets:
        assert len({sock.getsockname() for sock in sockets}) == 1
        assert len({sock.fileno() for sock in sockets}) == 4
        assert port_of(sockets) > 0


def test_the_kernel_spreads_connections_over_the_slots() -> None:
    with listening("127.0.0.1:0", 2) as sockets:
        clients = [RawSocket(std.AF_INET, std.SOCK_STREAM) for _ in range(64)]
        for client in clients:
            client.connect(("127.0.0.1", port_of(sockets)))
        taken = [0, 0]
        for slot, sock in enumerate(sockets):
            with contextlib.suppress(BlockingIOError):
                while True:
                    fd, _ = sock._accept()
                    os.close(fd)
                    taken[slot] += 1
        for client in clients:
            client.close()
        assert sum(taken) == 64 and min(taken) > 0


def test_a_bare_port_takes_both_families() -> None:
    with listening(":0") as sockets:
        port = port_of(sockets)
        assert connects(std.AF_INET, ("127.0.0.1", port))
        assert connects(std.AF_INET6, ("::1", port))
        assert bound_address(sockets[0]) == f"[::]:{port}"


def test_an_ipv6_address_takes_ipv6_only() -> None:
    with listening("[::]:0") as sockets:
        port = port_of(sockets)
        assert connects(std.AF_INET6, ("::1", port))
        assert not connects(std.AF_INET, ("127.0.0.1", port))
    with listening("[::1]:0") as sockets:
        assert bound_address(sockets[0]) == f"[::1]:{port_of(sockets)}"


def test_listening_sockets_neither_block_nor_are_inherited_by_chance() -> None:
    with listening("127.0.0.1:0") as sockets:
        assert not os.get_inheritable(sockets[0].fileno())
        assert not sockets[0].getblocking()


@pytest.mark.parametrize("ours", [False, True])
def test_a_port_in_use_is_refused_even_when_it_is_shared_by_another_of_us(ours: bool) -> None:
    with contextlib.ExitStack() as stack:
        if ours:
            port = port_of(stack.enter_context(listening("127.0.0.1:0", 2)))
        else:
            port = stack.enter_context(std.create_server(("127.0.0.1", 0))).getsockname()[1]
        with pytest.raises(StartError) as caught:
            listen(f"127.0.0.1:{port}", 2)
    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1:{port}: address already in use "
        "(another program listens there; `ss -ltnp` names it)"
    )


def test_a_port_is_free_again_once_its_sockets_are_closed() -> None:
    with listening("127.0.0.1:0", 2) as sockets:
        port = port_of(sockets)
        assert connects(std.AF_INET, ("127.0.0.1", port))
    with listening(f"127.0.0.1:{port}", 2) as again:
        assert port_of(again) == port


def test_an_address_of_another_machine_is_told() -> None:
    with pytest.raises(StartError, match=r"cannot listen on 192\.0\.2\.1:80: cannot assign requested address \(this "):
        listen("192.0.2.1:80", 1)


def test_a_unix_socket_is_shared_by_all_slots(tmp_path: Path) -> None:
    path = f"{tmp_path}/s"
    with listening(f"unix:{path}", 3) as sockets:
        assert len(sockets) == 1
        assert bound_address(sockets[0]) == f"unix:{path}"
        assert connects(std.AF_UNIX, path)
        fd, _ = sockets[0]._accept()
        os.close(fd)


def test_a_slot_that_has_no_socket_gets_one_on_the_same_address() -> None:
    with listening("127.0.0.1:0", 1) as sockets:
        wider = widen(sockets, 3)
        assert wider[0] is sockets[0] and len(wider) == 3
        assert {sock.getsockname() for sock in wider} == {sockets[0].getsockname()}
        assert widen(wider, 2) == wider
        for sock in wider[1:]:
            sock.close()


def test_a_socket_that_cannot_be_shared_out_is_used_by_all_slots() -> None:
    with contextlib.closing(std.create_server(("127.0.0.1", 0))) as given:
        sock = adopt(os.dup(given.fileno()))
        assert widen([sock], 4) == [sock]
        assert not sock.getblocking()
        sock.close()


def test_what_is_no_listening_socket_is_not_adopted(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w") as file, pytest.raises(StartError, match="is no socket"):
        adopt(os.dup(file.fileno()))
    with (
        contextlib.closing(RawSocket(std.AF_INET, std.SOCK_STREAM)) as sock,
        pytest.raises(StartError, match="is no listening stream socket"),
    ):
        adopt(os.dup(sock.fileno()))


def test_a_socket_is_known_by_its_address(tmp_path: Path) -> None:
    path = f"{tmp_path}/s"
    with listening(":0") as (everywhere,), listening("127.0.0.1:0") as (here,), listening(f"unix:{path}") as (file,):
        port = port_of([everywhere])
        assert listens_on(everywhere, f":{port}")
        assert not listens_on(everywhere, f"127.0.0.1:{port}")
        assert listens_on(here, f"127.0.0.1:{port_of([here])}")
        assert not listens_on(here, f":{port_of([here])}")
        assert not listens_on(here, "127.0.0.1:0")
        assert not listens_on(here, f"unix:{tmp_path}/s")
        assert listens_on(file, f"unix:{tmp_path}/s")
        assert not listens_on(file, f"unix:{tmp_path}/t")
        assert not listens_on(file, ":80")


def test_the_socket_file_of_a_program_that_is_gone_is_replaced(tmp_path: Path) -> None:
    path = f"{tmp_path}/s"
    with listening(f"unix:{path}"):
        pass  # closed without removing the file, as when killed
    assert Path(path).exists()
    with listening(f"unix:{path}"):
        assert connects(std.AF_UNIX, path)


def test_a_unix_socket_that_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    path = f"{tmp_path}/s"
    with listening(f"unix:{path}"):
        with pytest.raises(StartError, match="another program listens there"):
            listen(f"unix:{path}", 1)
        assert connects(std.AF_UNIX, path)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(StartError, match="a file that is not a socket is in the way"):
        listen(f"unix:{path}", 1)
    assert path.read_text() == "precious"


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="the folder does not exist"):
        listen(f"unix:{tmp_path}/missing/s", 1)


def test_removing_takes_the_file_of_a_unix_socket_along(tmp_path: Path) -> None:
    path = tmp_path / "s"
    (first,) = listen(f"unix:{path}", 2)
    remove(first)
    assert not path.exists()
    (tcp,) = listen("127.0.0.1:0", 1)
    remove(tcp)
    assert tcp.fileno() == -1
