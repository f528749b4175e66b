"""Fault 14 for configurations: whatever a YAML file holds is taken, or refused in one line."""

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

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


def meaning(data: bytes) -> str | None:
    """Return all that YAML says in a file, whatever makes objects of it: no comments, no spaces.

    None if it is no YAML.
    """
    try:
        events = list(yaml.parse(data, yaml.CSafeLoader))
    except (yaml.YAMLError, UnicodeError):
        return None
    for event in events:
        event.start_mark = event.end_mark = None
    return repr([(type(event).__name__, vars(event)) for event in events])


def share_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all commands use the first one's parser: to make one takes longer than to use it."""
    make, made = trainer.ElfCLI.setup_parser, []

    def setup_parser(self: trainer.ElfCLI, *arguments: Any) -> None:
        if not made:
            make(self, *arguments)
            made.append(self.parser)
        self.parser = made[0]

    monkeypatch.setattr(trainer.ElfCLI, "setup_parser", setup_parser)


@pytest.mark.fault(14)
@pytest.mark.parametrize(
    ("seed", "cases"),
    [(0, 2_500), (1, 2_500)]
    + [pytest.param(seed, 25_000, marks=pytest.mark.slow) for seed in range(2, 22)],
)
@pytest.mark.timeout(7200)
def test_any_file_is_taken_or_refused_in_one_line(
    tmp_path: Path, seed: int, cases: int, monkeypatch: pytest.MonkeyPatch, figures: Any
) -> None:
    cases = figures.part(cases)
    draw = random.Random(seed)
    good = Path("configs/train/quickstart.yaml").read_bytes()
    # none gets as far as a model: its name leads nowhere, on the disk and on the hub
    good = good.replace(b"models/tiny/base", b"./nowhere")
    path = tmp_path / "damaged.yaml"

    def refusal(data: bytes) -> str:
        path.write_bytes(data)
        with pytest.raises(ElfError) as error:
            trainer.prepare([f"--config={path}"])
        assert "\n" not in str(error.value), data
        return str(error.value)

    few = [damaged(good, draw) for _ in range(20)]
    said_of_few = [refusal(data) for data in few]
    share_parser(monkeypatch)
    assert [refusal(data) for data in few] == said_of_few, "a used parser does as a new one"
    seen, refused = set(), set(said_of_few)
    for _ in range(cases - len(few)):
        data = damaged(good, draw)
        said = meaning(data)
        if said is None or said not in seen:
            refused.add(refusal(data))
        seen.add(said)
    assert len(refused) > min(cases, 10_000) / 10
    figures(files=cases, other_errors=0)
