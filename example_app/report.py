"""What an uploaded table holds: its columns, how full they are, what their numbers add up to."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_COLUMNS = 100
MAX_ROWS = 100_000


class UnreadableTable(ValueError):
    """The upload is not a table that we can read; the text says why, for the person to see."""


@dataclass
class Column:
    """What is known of one column after reading all of it."""

    name: str
    filled: int = 0
    numbers: int = 0
    total: float = 0.0
    distinct: set[str] = field(default_factory=set, repr=False)

    def take(self, text: str) -> None:
        """Count one cell."""
        if not text.strip():
            return
        self.filled += 1
        self.distinct.add(text)
        number = as_number(text)
        if number is not None:
            self.numbers += 1
            self.total += number

    @property
    def sum(self) -> str:
        """The sum, if every filled cell is a number."""
        return f"{self.total:g}" if self.filled and self.numbers == self.filled else ""


@dataclass
class Report:
    """The summary of one table."""

    file_name: str
    rows: int
    columns: list[Column]

    def as_csv(self) -> bytes:
        """The summary as a table of its own, for the attachment."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["column", "filled", "distinct", "sum"])
        for column in self.columns:
            writer.writerow(
                [not_a_formula(column.name), column.filled, len(column.distinct), column.sum]
            )
        return text.getvalue().encode()


def summarise(file_name: str, data: bytes) -> Report:
    """Read a CSV file. Raises :class:`UnreadableTable`."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableTable("The file is not text in UTF-8.") from error
    rows = read_rows(text)
    header = next(rows, None)
    if not header or not any(name.strip() for name in header):
        raise UnreadableTable("The first line must name the columns.")
    if len(header) > MAX_COLUMNS:
        raise UnreadableTable(f"The table has more than {MAX_COLUMNS} columns.")
    columns = [Column(name.strip()[:80] or f"column {i}") for i, name in enumerate(header, 1)]
    return Report(file_name, count_rows(rows, columns), columns)


def read_rows(text: str) -> Iterator[list[str]]:
    """The lines of the table that hold anything."""
    first_line = text.partition("\n")[0]
    # Spreadsheets write semicolons where the comma separates decimals.
    delimiter = ";" if first_line.count(";") > first_line.count(",") else ","
    try:
        yield from (row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row)
    except csv.Error as error:
        raise UnreadableTable(f"The file is not a CSV table ({error}).") from error


def count_rows(rows: Iterator[list[str]], columns: list[Column]) -> int:
    """Fill the columns; how many rows there were."""
    count = 0
    for count, row in enumerate(rows, 1):
        if count > MAX_ROWS:
            raise UnreadableTable(f"The table has more than {MAX_ROWS} rows.")
        for column, cell in zip(columns, row, strict=False):
            column.take(cell)
    return count


def as_number(text: str) -> float | None:
    """The number that a cell holds, if it holds one."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def not_a_formula(text: str) -> str:
    """A cell that no spreadsheet runs as a formula: the names in it come from a stranger's file."""
    return "'" + text if text.startswith(("=", "+", "-", "@")) else text
