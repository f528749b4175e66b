"""Configurations: what a YAML of a stranger holds is taken, or refused in one line."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from oracle import Check, Finding, refused

sys.path.append(str(Path(__file__).parents[2] / "faults"))

from test_fuzzed_yaml import WORDS as VALUES
from test_fuzzed_yaml import share_parser

from elf import trainer
from elf.export.reading import of_run, section_of_run

from . import join, split

READ_BY = ("yaml", "jsonargparse")
LONGEST = 1 << 13
ROOT = Path(__file__).parents[3]
NAMES = (
    *(b"class_path: ", b"init_args: ", b"DiffusionModule", b"ShardDataModule", b"TextDataModule"),
    *(
        b"LanguageModule",
        b"TaggerModule",
        b"trainer: ",
        b"model: ",
        b"data: ",
        b"sets: ",
        b"logger",
    ),
    *(b"torch.optim.AdamW", b"os.system", b"elf.files.write_atomic", b"callbacks: ", b"<<: *a"),
    *(
        b"&a ",
        b"!!int ",
        b"!!set ",
        b"!!omap ",
        b"%YAML 9.9\n---\n",
        b"---\n",
        b"...\n",
        b"| ",
        b"> ",
    ),
)
WORDS = (*VALUES, *NAMES)


def seeds(folder: Path) -> Iterator[bytes]:
    """Yield the shipped configurations, none of which gets as far as a model."""
    for name in ("train/quickstart.yaml", "train/language-quickstart.yaml", "tag/quickstart.yaml"):
        path = ROOT / "configs" / name
        lines = path.read_text().splitlines()
        short = "\n".join(line.partition("  #")[0] for line in lines if not line.startswith("#"))
        nowhere = short.replace("models/tiny/", "./nowhere/").replace("/stable", "./nowhere")
        yield join(0, nowhere.encode())
    yield join(1, b"model:\n  class_path: DiffusionModule\n  init_args: {base: a, rank: 4}\n")


def hurry() -> None:
    """Let all inputs share a parser, which takes longer to make than to use."""
    share_parser(pytest.MonkeyPatch())


def target(folder: Path) -> Check:
    """Return the check of a file: as a configuration, or as one that lies in a run's folder.

    Relative names must lead nowhere: the working folder is an empty one.
    """
    path = folder / "config.yaml"

    def check(data: bytes) -> None:
        kind, text = split(data, 2)
        path.write_bytes(text)
        if kind:
            of_run(folder, "model", "base")
            section_of_run(folder, "model")
            return
        with refused():
            trainer.prepare([f"--config={path}"])
            raise Finding("there are no pictures, and something was prepared")

    return check
