"""Fault 14 for configurations: whatever a YAML file holds is taken, or refused in one line."""

import random
from pathlib import Path

import pytest

from elf import trainer
from elf.errors import ElfError

WORDS = [
    b"null", b"-1", b"[]", b"{}", b"x", b"'", b"1e999", b".nan", b"true", b"[[[1]]]", b"~nobody",
    b"&a [*a, *a]", b"*x", b"!!python/object:os.system ", b"!!binary aa", b"2020-01-01", b"? ",
    b": ", b"- ", b"\t", b"\x00", b"\xff\xfe", b"\xe2\x80\xa8",
]  # fmt: skip


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Return a file with some of its bits, bytes, values or lines changed."""
    for _ in range(draw.choice([1, 1, 2, 4])):
        data = data or b" "
        at = draw.randrange(len(data))
        rest = data[at:]
        lines = data.split(b"\n")
        line = draw.randrange(len(lines))
        match draw.randrange(6):
            case 0:
                data = data[:at] + bytes([rest[0] ^ 1 << draw.randrange(8)]) + rest[1:]
            case 1:
                data = data[:at] + rest[draw.randrange(30) :]
            case 2:
                data = data[:at] + draw.choice(WORDS) + rest
            case 3:
                data = data[:at] + draw.randbytes(5) + rest
            case 4:
                key = lines[line].split(b":")[0]
                lines[line] = key + b": " + draw.choice(WORDS)
                data = b"\n".join(lines)
            case _:
                lines.insert(line, draw.choice(lines))
                data = b"\n".join(lines)
    return data


@pytest.mark.parametrize("cases", [150, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(3600)
def test_any_file_is_taken_or_refused_in_one_line(tmp_path: Path, cases: int) -> None:
    draw = random.Random(0)
    good = Path("configs/train/quickstart.yaml").read_bytes()
    # none gets as far as a model: its name leads nowhere, on the disk and on the hub
    good = good.replace(b"models/tiny/base", b"./nowhere")
    path, refused = tmp_path / "damaged.yaml", set()
    for number in range(cases):
        path.write_bytes(damaged(good, draw))
        with pytest.raises(ElfError) as error:
            trainer.prepare([f"--config={path}"])
        assert "\n" not in str(error.value), (number, path.read_bytes())
        refused.add(str(error.value))
    assert len(refused) > cases / 10
