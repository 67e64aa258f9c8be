"""Values: a figure with its floor and its aim, and the table of figures. This module measures nothing.

A floor is the cost of the part of the work that every implementation has to do, on the same machine in the same run.
Only the ratio figure / floor is comparable over machines and days.
"""

import statistics
import sys
from collections.abc import Sequence

import msgspec


class Aim(msgspec.Struct, frozen=True):
    """A bound on a figure's ratio, or on its value if it has no floor."""

    bound: float
    of: str = "ratio"
    at_least: bool = False
    unit: str = "s"
    """The unit of a bound on the value."""

    def __str__(self) -> str:
        unit = "" if self.of == "ratio" else f" {self.unit}"
        return f"{self.of} {'>=' if self.at_least else '<='} {self.bound:g}{unit}"

    def met(self, ratio: float | None, value: float) -> bool:
        measured = value if self.of == "value" or ratio is None else ratio
        return measured >= self.bound if self.at_least else measured <= self.bound


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table. `floor` has the figure's unit; `ratio` is `value` / `floor`."""

    name: str
    value: float
    unit: str
    floor: float | None = None
    floor_name: str = ""
    aim: Aim | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return None if not self.floor else self.value / self.floor

    @property
    def met(self) -> bool | None:
        return None if self.aim is None else self.aim.met(self.ratio, self.value)

    def document(self) -> dict[str, object]:
        return {
            **{name: getattr(self, name) for name in ("name", "value", "unit", "floor", "floor_name", "ratio", "note")},
            "aim": "" if self.aim is None else str(self.aim),
            "met": self.met,
        }


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def progress(text: str) -> None:
    """Print the running measurement on stderr. stdout is for the result."""
    print(f"  {text}", file=sys.stderr, flush=True)


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return f"{value:.3g} {unit}" if abs(value) < 100 else f"{value:,.0f} {unit}"


def table(figures: Sequence[Figure]) -> str:
    """The table: figure, measured, floor, ratio, aim, met or missed. The lines below name the floors and the notes."""
    head = ("figure", "measured", "floor", "ratio", "aim", "")
    words = {True: "met", False: "missed", None: ""}
    rows = [
        (
            figure.name,
            _number(figure.value, figure.unit),
            _number(figure.floor, figure.unit),
            "-" if figure.ratio is None else f"{figure.ratio:.3g}",
            "-" if figure.aim is None else str(figure.aim),
            words[figure.met],
        )
        for figure in figures
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    lines.insert(1, "-" * len(lines[0]))
    named = [(figure.name, figure.floor_name, figure.note) for figure in figures if figure.floor_name or figure.note]
    notes = [
        f"{name}: " + "; ".join(part for part in (floor and f"floor: {floor}", note) if part)
        for name, floor, note in named
    ]
    return "\n".join([*(line.rstrip() for line in lines), "", *notes])
