"""One thing is not many, and of many some are shown."""

import pytest

from elf.counted import counted, some


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 copies"), (1, "1 copy"), (2, "2 copies"), (1200, "1200 copies")]
)
def test_numbers_in_words(number: int, said: str) -> None:
    assert counted(number, "copy", "copies") == said
    assert counted(number, "file") == said.replace("copies", "files").replace("copy", "file")


def test_long_lists_are_cut() -> None:
    lines = some([str(number) for number in range(25)], 20)
    assert len(lines) == 21 and lines[-1] == "  ... and 5 more"
    assert some(["a", "b"], 2) == ["a", "b"]
