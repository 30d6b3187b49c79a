"""What a scenario found: figures, tables, curves, and limits that some of the figures are held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Row = Mapping[str, float | str]


@dataclass(frozen=True)
class Options:
    """How much is measured.

    Attributes:
        rounds: How often what takes turns is repeated.
        seconds: Length of a load.
        is_quick: Whether all is to be over in a minute, whatever the figures are worth then.
    """

    rounds: int = 10
    seconds: float = 5.0
    is_quick: bool = False


@dataclass(frozen=True)
class Check:
    """A figure, and what it is held against.

    Attributes:
        what: What it is.
        value: What was measured.
        limit: Most that it may be, or least.
        is_most: Which of both.
    """

    what: str
    value: float
    limit: float
    is_most: bool = True

    @property
    def is_met(self) -> bool:
        return self.value <= self.limit if self.is_most else self.value >= self.limit

    def __str__(self) -> str:
        mark = "ok  " if self.is_met else "FAIL"
        return f"{mark} {self.what}: {self.value:.4g} (limit {'<=' if self.is_most else '>='} {self.limit:g})"


@dataclass(frozen=True)
class Curve:
    """Points for the plot.

    Attributes:
        plot: Which of the plots of `tests.bench.plots` it belongs to.
        name: For the legend.
        points: x and y.
    """

    plot: str
    name: str
    points: Sequence[tuple[float, float]]


@dataclass
class Outcome:
    """What a scenario found.

    Attributes:
        title: What was measured, in a sentence.
        tables: Rows by name, by the title of the table.
        checks: Limits.
        curves: For the plot.
        raw: What else goes to the JSON file.
    """

    title: str
    tables: dict[str, dict[str, Row]] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    raw: dict[str, object] = field(default_factory=dict)

    def print(self) -> None:
        """Write it for people to read."""
        print(f"\n== {self.title}")
        for title, rows in self.tables.items():
            print(f"\n{title}")
            print_table(rows)
        if self.checks:
            print()
        for check in self.checks:
            print(check)

    def json(self) -> dict[str, object]:
        """Give it as JSON takes it."""
        return {
            "title": self.title,
            "tables": self.tables,
            "checks": [vars(check) | {"is_met": check.is_met} for check in self.checks],
            "curves": [vars(curve) for curve in self.curves],
            **self.raw,
        }


def print_table(rows: Mapping[str, Row]) -> None:
    """Print rows under the names of their columns; a row may lack some."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    first = max(map(len, rows))
    widths = {column: max(len(column), *(len(str(row.get(column, ""))) for row in rows.values())) for column in columns}
    print(" " * first, *(f"{column:>{widths[column]}}" for column in columns), sep="  ")
    for name, row in rows.items():
        print(f"{name:<{first}}", *(f"{row.get(column, '')!s:>{widths[column]}}" for column in columns), sep="  ")
