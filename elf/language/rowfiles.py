"""Files of rows: JSON Lines and WebDataset tars, read one row at a time and never unpacked."""

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

from elf.errors import ElfError
from elf.language.rows import Row, parse_row, parse_text
from elf.preparation.shards import Reader, scan

LONGEST_LINE = 1 << 26  # bytes; what is longer is no row, and would be held in memory whole
_BOM = b"\xef\xbb\xbf"


def find_row_files(files: Sequence[str | Path]) -> list[Path]:
    """Return the files that paths name, in their order; of a folder its .jsonl and .tar, sorted.

    Raises:
        ElfError: If one is not there, a folder holds none, or a file is named twice.
    """
    found: list[Path] = []
    for path in map(Path, files):
        if path.is_dir():
            below = [
                each
                for each in sorted(path.rglob("*"))
                if each.suffix.lower() in (".jsonl", ".tar")
                and each.is_file()
                and not any(part.startswith(".") for part in each.relative_to(path).parts)
            ]
            if not below:
                raise ElfError(f"{path} holds no .jsonl and no .tar: name a folder of rows")
            found += below
        elif path.is_file():
            found.append(path)
        else:
            raise ElfError(f"{path} is no file: give paths on this machine's disks")
    if not found:
        raise ElfError("data.files names nothing: give a .jsonl, a .tar, or a folder of them")
    seen: set[Path] = set()
    for path in found:
        if path in seen:
            raise ElfError(f"{path} is named twice in data.files: name it once")
        seen.add(path)
    return found


def read_rows(files: Sequence[Path]) -> Iterator[Row]:
    """Yield all rows of files, one in memory at a time.

    Raises:
        ElfError: If a file is unreadable or a row cannot be trained on, with its file and line.
    """
    for path in files:
        try:
            yield from (_rows_of_tar if path.suffix.lower() == ".tar" else _rows_of_lines)(path)
        except OSError as error:
            raise ElfError(
                f"{path} could not be read ({error.strerror or error}): mend it, or leave it out"
            ) from None


def _rows_of_lines(path: Path) -> Iterator[Row]:
    for where, _, line in row_lines(path):
        yield parse_row(line, where)


def row_lines(path: Path) -> Iterator[tuple[str, int, bytes]]:
    """Yield the place in words, the position and the bytes of each line that is not empty.

    Raises:
        ElfError: If a line is too long to be a row.
    """
    with open(path, "rb") as file:
        number = position = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise ElfError(
                    f"{path}:{number}: a line of more than {LONGEST_LINE >> 20} MiB; write one "
                    "row a line, and longer texts as several rows"
                )
            row = line.removeprefix(_BOM) if number == 1 else line
            if row.strip():
                yield f"{path}:{number}", position + len(line) - len(row), row
            position += len(line)


def _rows_of_tar(path: Path) -> Iterator[Row]:
    reader = Reader(path.parent)
    empty = True
    try:
        for entry in scan(path, read_meta=False).entries:
            # a stranger chose the key, down to commands for the terminal
            key = "".join(c if c.isprintable() else "?" for c in entry.key)
            if len(found := entry.members.keys() & {"json", "txt"}) != 1:
                what = "both a .json and a .txt" if found else "neither a .json nor a .txt"
                raise ElfError(f"{path}/{key} has {what}: keep one of them, it is the row")
            (suffix,) = found
            where = f"{path}/{key}.{suffix}"
            start, size = entry.members[suffix]
            if size > LONGEST_LINE:
                raise ElfError(
                    f"{where}: more than {LONGEST_LINE >> 20} MiB; write it as several rows"
                )
            data = reader(path.name, start, size)
            yield parse_row(data, where) if suffix == "json" else parse_text(data, where)
            empty = False
    finally:
        reader.close()
    if empty:
        raise ElfError(f"{path} holds no rows: its members are to be {{id}}.json or {{id}}.txt")


class SeenIds:
    """A set of 64-bit ids in 16 to 32 bytes each, where Python's own takes some 90.

    Open addressing with linear probing: the ids are hashes already, so their low bits are places.
    """

    def __init__(self) -> None:
        self._table = array("Q", bytes(8 << 10))
        self._count = 0

    def add(self, word: int) -> bool:
        """Add an id; return whether it is new."""
        word = word or 1  # 0 is a free place
        if not self._put(word):
            return False
        self._count += 1
        if self._count * 2 > len(self._table):
            old, self._table = self._table, array("Q", bytes(16 * len(self._table)))
            for each in old:
                if each:
                    self._put(each)
        return True

    def _put(self, word: int) -> bool:
        mask = len(self._table) - 1
        place = word & mask
        while there := self._table[place]:
            if there == word:
                return False
            place = (place + 1) & mask
        self._table[place] = word
        return True
