"""Where the admin API is, and what can be wrong with that."""

from __future__ import annotations

import pytest

from charon.config.compile import compile_settings
from charon.config.settings import AdminSpec
from tests.config.support import Folder

TEXT = """
target_service_addr: a:1
admin: {address: "127.0.0.1:9901", read_token_file: read, write_token_file: /etc/write, group_may_write: true}
"""


def test_all_of_it_waits_for_a_restart_and_paths_are_absolute(folder: Folder) -> None:
    settings = compile_settings(folder.load(TEXT))
    assert settings.admin == AdminSpec("127.0.0.1:9901", str(folder.path / "read"), "/etc/write", True)
    plain = compile_settings(folder.load("target_service_addr: a:1"))
    assert plain.admin == AdminSpec()
    assert plain.needs_restart(settings) == ("admin",)
    assert settings.keeping(plain, ("admin",)).admin == plain.admin


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{address: unix:/run/x}", "2: admin.address: a TCP address is expected here, such as 127.0.0.1:9901; "
         "see admin.socket"),
        ("{read_token_file: t}", "2: admin.read_token_file: it has no effect without admin.address"),
        ("{write_token_file: t}", "2: admin.write_token_file: it has no effect without admin.address"),
    ],
)  # fmt: skip
def test_mistakes(folder: Folder, text: str, problem: str) -> None:
    assert folder.problems(f"target_service_addr: a:1\nadmin: {text}") == [problem]
