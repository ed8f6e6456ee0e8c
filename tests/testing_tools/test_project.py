"""The files around the code agree with it, and with each other."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from charon import __version__
from charon.config.load import load_config

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
REGISTRY = re.findall(r"```yaml\n(# registry\.yaml\n.*?)```", README, re.DOTALL)[0]
CONFIGS = re.findall(r"```yaml\n# config\.yaml\n(.*?)```", README, re.DOTALL)
CONFIGS += re.findall(r"cat > (?:config|tcp)\.yaml <<'END'\n(.*?)END\n", README, re.DOTALL)

UNDECLARED = {"deprecated"}
"""What a dependency imports and does not ask for, so that Charon has to."""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(path: str) -> tuple[set[str], set[str]]:
    """The distributions a requirements file asks for directly, and those only because others need them."""
    text = (ROOT / path).read_text(encoding="utf-8")
    direct, _, indirect = text.partition("# What those need.")
    names = [
        {canonical(line.split("==")[0]) for line in part.splitlines() if line and line[0] not in "#-"}
        for part in (direct, indirect)
    ]
    return names[0], names[1]


def imported(folder: str) -> set[str]:
    """The distributions from which the modules in ``folder`` import something."""
    modules = set()
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                modules.add(node.module.split(".")[0])
    known = packages_distributions()
    foreign = modules - sys.stdlib_module_names - {"charon", "tests"}
    return {canonical(name) for module in foreign for name in known.get(module, [f"not installed: {module}"])}


def test_the_lock_holds_what_is_pinned_and_a_hash_for_each() -> None:
    """`scripts/lock` writes it anew."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries = re.findall(r"^([^\s#=]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", lock, re.MULTILINE)
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    pins = re.findall(r"^([^\s#=-][^\s=]*)==(\S+)", text, re.MULTILINE)
    assert {(canonical(name), version) for name, version, _ in entries} == {(canonical(name), v) for name, v in pins}
    assert len(re.findall("^[^ #]", lock, re.MULTILINE)) == len(entries), "each has its hashes"


def test_what_the_code_imports_is_what_it_requires() -> None:
    direct, indirect = pinned("requirements.txt")
    assert imported("charon") <= direct | indirect, "imported, but not in requirements.txt"
    assert direct - UNDECLARED <= imported("charon"), "in requirements.txt, but nothing imports it"


@pytest.mark.parametrize("path", sorted(path.name for path in ROOT.glob("requirements*.txt")))
def test_every_requirement_is_pinned_with_a_reason(path: str) -> None:
    for line in (ROOT / path).read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#-":
            assert re.fullmatch(r"[A-Za-z0-9.-]+==[0-9][0-9a-z.]* +# \S.*", line), line


def test_setup_asks_for_the_same_libraries_as_requirements() -> None:
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    block = re.search(r"install_requires=\[(.*?)\]", text, re.DOTALL)
    assert block is not None
    assert {canonical(name) for name in re.findall(r'"([A-Za-z0-9._-]+)>=', block[1])} == pinned("requirements.txt")[0]


def test_the_debian_package_has_the_same_version() -> None:
    first = (ROOT / "debian/changelog").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(f"charon ({__version__}) ")


@pytest.mark.parametrize("config", CONFIGS)
def test_every_configuration_in_the_readme_is_valid(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    (tmp_path / "registry.yaml").write_text(REGISTRY, encoding="utf-8")
    assert load_config(tmp_path / "config.yaml", {}).listeners


def test_the_readme_has_all_its_configurations() -> None:
    assert len(CONFIGS) == 11


def test_every_file_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\(([^):]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
