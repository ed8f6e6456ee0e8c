"""Figures of a run, and what follows from them: pure, from and to JSON, for terminal, page, bars and check alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

Sample = dict[str, float]


@dataclass(frozen=True)
class Column:
    """A figure of every sample. With ``ratio`` it is compared with the references of its workload. ``over`` compares
    each peer with its base, the one that has less: by ``difference`` or by ``ratio``. Less is better, except where
    ``higher`` says otherwise."""

    key: str
    title: str
    digits: int
    ratio: bool = False
    over: str = ""
    higher: bool = False


COMMON = (Column("pss_mb", "memory MB (PSS)", 1), Column("others_percent", "others on its core %", 0))
"""What the runner finds out by itself, where it can."""


@dataclass
class Measured:
    """One workload: each peer's samples, one a round; a peer in ``failed`` has none, for the reason there. What is in
    ``failed`` under ``*`` kept the workload itself from running."""

    name: str
    title: str
    columns: tuple[Column, ...]
    references: tuple[str, ...] = ()
    bases: dict[str, str] = field(default_factory=dict)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def values(self, peer: str, key: str) -> list[float]:
        return [sample[key] for sample in self.samples.get(peer, ()) if key in sample]

    def ratios(self, peer: str, references: tuple[str, ...], key: str, higher: bool = False) -> list[float]:
        """To the best of ``references`` in the same round: neighbours in time share the machine's mood. A round in
        which that is not positive (latency added may be none) gives none."""
        known = [values for name in references if (values := self.values(name, key))]
        best = [max(values) if higher else min(values) for values in zip(*known, strict=False)]
        return [a / b for a, b in zip(self.values(peer, key), best, strict=False) if b > 0]

    def differences(self, peer: str, key: str) -> list[float]:
        """Round by round, what a peer has over its base; none for those without one."""
        base = self.values(self.bases.get(peer, ""), key)
        return [a - b for a, b in zip(self.values(peer, key), base, strict=False)]

    def column(self, key: str) -> Column:
        """KeyError when there is no such column."""
        for column in self.columns:
            if column.key == key:
                return column
        raise KeyError(key)

    def compared(self) -> Iterator[tuple[str, str, Column, list[float]]]:
        """Every ratio that there is: peer, reference, column, one a round."""
        for column in self.columns:
            for peer in self.samples:
                names = self.references if column.ratio else ()
                if column.over == "ratio" and peer in self.bases:
                    names = (*names, self.bases[peer])
                for name in names:
                    ratios = self.ratios(peer, (name,), column.key, column.higher)
                    if peer != name and ratios:
                        yield peer, name, column, ratios

    def rows(self) -> list[list[str]]:
        """The table: a title in each cell of the first row, a peer in each other."""
        rows = [["peer"], *([peer] for peer in self.samples)]

        def add(title: str, cells: list[str]) -> None:
            for row, cell in zip(rows, [title, *cells], strict=True):
                row.append(cell)

        for column in (*self.columns, *COMMON):
            key = column.key
            if column in COMMON and not any(self.values(peer, key) for peer in self.samples):
                continue
            add(column.title, [span(self.values(peer, key), column.digits) for peer in self.samples])
            for name in self.references if column.ratio else ():
                ratios = (self.ratios(peer, (name,), key) for peer in self.samples)
                add(f"÷ {name}", [span(values, 2) for values in ratios])
            if column.over == "difference":
                add("over", [span(self.differences(peer, key), column.digits) for peer in self.samples])
            if column.over == "ratio":
                bases = [(peer, self.bases.get(peer, "")) for peer in self.samples]
                add("÷ its base", [span(self.ratios(peer, (base,), key), 2) if base else "-" for peer, base in bases])
        return rows

    def notes(self) -> list[str]:
        return [f"{'not run' if peer == '*' else f'{peer}: none'}: {why}" for peer, why in self.failed.items()]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Measured:
        columns = tuple(Column(**column) for column in data["columns"])
        return cls(**{**data, "columns": columns, "references": tuple(data["references"])})


@dataclass
class Document:
    """A run: when, on what, by which options, with which peers (version, settings, and why it is left out, if it is),
    and every figure."""

    date: str
    machine: dict[str, Any]
    options: dict[str, Any]
    peers: dict[str, dict[str, str]]
    workloads: list[Measured]

    def workload(self, name: str) -> Measured | None:
        return next((measured for measured in self.workloads if measured.name == name), None)

    def versions(self) -> str:
        """Of the programs, not of their variants."""
        shown = {peer["program"]: peer["version"] for peer in self.peers.values() if not peer["missing"]}
        return ", ".join(f"{program} {version}" for program, version in shown.items())

    def place(self) -> str:
        machine = self.machine
        return (
            f"{machine['cores']} cores ({machine['cpu']}), Linux {machine['kernel']}, Python {machine['python']}; "
            f"peer on core {machine['peer_core']}, load and backend on {machine['load_cores']}"
        )

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "workloads": [measured.to_json() for measured in self.workloads]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Document:
        return cls(**{**data, "workloads": [Measured.from_json(measured) for measured in data["workloads"]]})


def percentile(ordered: list[float], percent: float) -> float:
    """Of values in rising order: the smallest that so many are not above."""
    return ordered[max(0, -int(-len(ordered) * percent // 100) - 1)]


def span(values: list[float], digits: int) -> str:
    """``median (lowest–highest)``"""
    if not values:
        return "-"
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), median(values), max(values)))
    return middle if low == high else f"{middle} ({low}–{high})"


def text_table(rows: list[list[str]]) -> str:
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def markdown_table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
