"""What came of the mutants that scripts/mutate has tried: a line for each module, and those that nobody noticed."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MUTANTS = ROOT / "mutants"

SURVIVED, UNTESTED = (0,), (5, 33)
"""Exit codes of the tests, as mutmut keeps them. None: not tried yet. All others: somebody noticed, by a failed test, a
broken process or a time that ran out."""

Outcomes = dict[str, int | None]


def outcomes() -> dict[str, Outcomes]:
    """Of each module, by its path: its mutants and how their tests ended."""
    found = {}
    for file in sorted(MUTANTS.glob("charon/**/*.meta")):
        codes: Outcomes = json.loads(file.read_text())["exit_code_by_key"]
        if codes:
            found[str(file.relative_to(MUTANTS)).removesuffix(".meta")] = codes
    return found


def table(found: dict[str, Outcomes]) -> str:
    """Figures, a line for each module. ``killed`` is of those that were tried."""
    lines = [f"{'module':36}{'mutants':>8}{'tried':>8}{'survived':>10}{'no test':>9}{'killed':>9}"]
    for name, codes in [*found.items(), ("all", {key: code for each in found.values() for key, code in each.items()})]:
        tried = [code for code in codes.values() if code is not None]
        survived, untested = (sum(code in kind for code in tried) for kind in (SURVIVED, UNTESTED))
        share = f"{100 * (1 - (survived + untested) / len(tried)):.1f} %" if tried else "-"
        lines.append(f"{name:36}{len(codes):8}{len(tried):8}{survived:10}{untested:9}{share:>9}")
    return "\n".join(lines)


def sample(found: dict[str, Outcomes], size: int, seed: int) -> list[str]:
    """So many of all mutants, chosen by ``seed``."""
    names = sorted(name for codes in found.values() for name in codes)
    return random.Random(seed).sample(names, min(size, len(names)))


def main() -> None:
    found = outcomes()
    if sys.argv[1:2] == ["sample"]:
        print("\n".join(sample(found, int(sys.argv[2]), seed=1)))
        return
    for codes in found.values():
        for name, code in codes.items():
            if code in SURVIVED + UNTESTED:
                print(f"{'no test' if code in UNTESTED else 'survived'}: {name}")
    print(table(found))


if __name__ == "__main__":
    main()
