"""Fault 2 for text: killed at any instant, the old or the new is there; the next run ends it."""

import json
import random
import shutil
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest

from elf.language.settings import TextSettings
from elf.language.store import TokenStore

SETTINGS = {"length": 64, "held_out": 0.1}


class World:
    """Two files of rows, and what becomes of each."""

    def __init__(self, folder, make_tokenizer, chat):
        self.folder = folder
        make_tokenizer("chatml").save_pretrained(folder / "tokenizer")
        script = Path(__file__).with_name("prepare_in_forks.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(folder / "tokenizer")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.key = self.process.stdout.readline().strip()
        for name, numbers in (("old", range(100)), ("new", range(50, 500))):
            rows = (chat("u:Hello", f"a:I am {number}.") for number in numbers)
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{name}.jsonl").write_text(lines)
            start = time.monotonic()
            assert self.run(name, folder / f"from-{name}") == 0
            self.seconds = time.monotonic() - start
        self.states = [self.content(folder / f"from-{name}") for name in ("old", "new")]

    def run(self, name, folder, **fault):
        files = [str(self.folder / f"{name}.jsonl")]
        job = {"files": files, "folder": str(folder), "settings": SETTINGS, **fault}
        print(json.dumps(job), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    @staticmethod
    def content(folder):
        """All that stands under a final name."""
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and not path.relative_to(folder).parts[0].startswith(".")
        }

    def check(self, folder, **fault):
        """Go on from the old to the new with a fault; check what it left; go on."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.folder / "from-old", folder)
        ending = self.run("new", folder, **fault)
        assert ending in (0, -9)
        left = self.content(folder)
        old, new = self.states
        assert left["meta.json"] in (old["meta.json"], new["meta.json"])
        state = old if left["meta.json"] == old["meta.json"] else new
        assert state.items() <= left.items(), "all that the list names is whole"
        TokenStore.open(folder, TextSettings(**SETTINGS), self.key)
        if ending == 0:
            assert state is new
        assert self.run("new", folder) == 0
        assert self.content(folder) == new
        left = {path.name for path in folder.glob(".*")}
        assert left <= {".lock", ".verified.json"}
        return ending


@pytest.fixture(scope="module")
def world(tmp_path_factory, make_tokenizer, chat):
    world = World(tmp_path_factory.mktemp("world"), make_tokenizer, chat)
    yield world
    with world.process:
        world.process.stdin.close()
        assert world.process.wait(30) == 0


@pytest.mark.fault(2)
@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_before_operations_on_the_disk(world, tmp_path, step, figures):
    for at in count(1, step):
        if world.check(tmp_path / "tokens", kill_at=at) == 0:
            break
    assert at > 40
    figures(kills=len(range(1, at, step)), differing_bytes=0)


@pytest.mark.fault(2)
@pytest.mark.parametrize(
    "kills", [5, pytest.param(100, marks=(pytest.mark.slow, pytest.mark.timeout(3600)))]
)
def test_killed_at_random_instants(world, tmp_path, kills, figures):
    kills = figures.part(kills)
    draw, killed, runs = random.Random(0), 0, 0
    while killed < kills:
        after = draw.uniform(0, 1) * world.seconds
        killed += world.check(tmp_path / "tokens", kill_after=after) == -9
        runs += 1
        assert runs < 20 * kills
    figures(kills=killed, differing_bytes=0)
