"""One thing is not many."""

import pytest

from elf.counted import counted


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 copies"), (1, "1 copy"), (2, "2 copies"), (1200, "1200 copies")]
)
def test_numbers_in_words(number: int, said: str) -> None:
    assert counted(number, "copy", "copies") == said
    assert counted(number, "file") == said.replace("copies", "files").replace("copy", "file")
