"""A CSV file with a row for each step: on disk at once, and cut back when a run goes on."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from elf.files import write_atomic

Row = dict[str, str]


class StepTable:
    """Rows of figures by their step, in a file that holds them all at any instant.

    Args:
        path: The file; what it holds already is kept.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = ["step"]
        self.rows: list[Row] = []
        self._last: tuple[int, int] | None = None  # where the last row lies: start, length in bytes
        if path.exists():
            with open(path, newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self.rows = list(reader)
                self.columns = list(reader.fieldnames or self.columns)

    def add(self, row: Mapping[str, str]) -> None:
        """Write a row in its place; figures of a step that has one are merged into it.

        Some arrive late, and go before rows of later steps.
        """
        new = [key for key in row if key not in self.columns]
        self.columns += new
        place, step = len(self.rows), int(row["step"])
        while place and int(self.rows[place - 1]["step"]) >= step:
            place -= 1
        same = place < len(self.rows) and int(self.rows[place]["step"]) == step
        if same:
            self.rows[place].update(row)
        else:
            self.rows.insert(place, dict(row))
        late = place < len(self.rows) - 1
        if new or late or not self.path.exists() or (same and not self._replace_last()):
            self._rewrite()
        elif not same:
            data = self._text([self.rows[-1]]).encode()
            with open(self.path, "ab", buffering=0) as file:
                self._last = (file.tell(), len(data))
                file.write(data)

    def keep(self, rows: Iterable[Row]) -> None:
        """Replace all rows, if they are others."""
        kept = list(rows)
        if kept != self.rows:
            self.rows = kept
            self._rewrite()

    def rewind(self, step: int) -> None:
        """Drop the rows of all steps from ``step`` on: the run goes on from there."""
        self.keep(row for row in self.rows if int(row["step"]) < step)

    def _replace_last(self) -> bool:
        """Write the last row over its old self, in one call, so that no kill leaves half of it.

        Rewriting the file for each row that is logged in two parts would take quadratic time.
        """
        data = self._text([self.rows[-1]]).encode()
        if self._last is None or len(data) < self._last[1]:
            return False
        start = self._last[0]
        with open(self.path, "r+b", buffering=0) as file:
            file.seek(start)
            file.write(data)
        self._last = (start, len(data))
        return True

    def _rewrite(self) -> None:
        head = self._text([], header=True)
        body = self._text(self.rows[:-1])
        last = self._text(self.rows[-1:])
        write_atomic(self.path, head + body + last)
        self._last = (len((head + body).encode()), len(last.encode()))

    def _text(self, rows: Iterable[Row], header: bool = False) -> str:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns, restval="", lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()
