"""Faults 2 and 7 of `elf prepare`: the real command with real models, on real files."""

import json
import random
import shutil
import time
from itertools import count

import numpy as np
import pytest
from PIL import Image

from elf.errors import ElfError
from elf.images import picture_id
from elf.preparation.prepared import read_prepared

OLD, NEW = range(8), range(2, 12)  # pictures by number; those of NEW have other captions, too


def write_set(folder, numbers, labels):
    """Write pictures, some of them with masks, and their labels."""
    (folder / "raw").mkdir(parents=True)
    (folder / "labels").mkdir()
    records = []
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (64 + 5 * number, 70, 3), np.uint8)
        path = folder / f"raw/{number}.png"
        Image.fromarray(pixels).save(path)
        if number % 3 == 0:
            Image.new("L", (70, 64 + 5 * number), 200).save(folder / f"raw/{number}.mask.png")
        key = picture_id(path.read_bytes())
        (folder / f"labels/{key}.txt").write_text(f"tok, {labels} {number % 4}\n")
        records.append({"id": key, "path": path.name, "tags": [], "caption": ""})
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "labels/manifest.jsonl").write_text(lines)


def content(shards):
    """All that stands under a final name."""
    return {path.name: path.read_bytes() for path in shards.glob("[!.]*")}


class World:
    """Two states of one folder of pictures, and the shards of both."""

    def __init__(self, folder, base, commands):
        self.folder, self.base, self.commands = folder, base, commands
        for name, numbers in (("old", OLD), ("new", NEW)):
            write_set(folder / name, numbers, name)
        self.clean("old", folder / "from-old")
        shutil.copytree(folder / "from-old", folder / "from-new")
        self.clean("new", folder / "from-new")
        self.states = [content(folder / name) for name in ("from-old", "from-new")]
        self.hashes = [read_prepared(folder / n).index_hash for n in ("from-old", "from-new")]

    def arguments(self, name, shards, workers=2):
        sets = [{"pictures": str(self.folder / name / "raw"), "flip": True, "trigger": "tok",
                 "labels": str(self.folder / name / "labels")}]  # fmt: skip
        return [
            "prepare", "--config=configs/train/quickstart.yaml", f"--model.base={self.base}",
            f"--data.sets={json.dumps(sets)}", "--data.trigger=null", "--data.held_out=0.3",
            "--data.prior_preservation=0", f"--data.shards={shards}", f"--data.workers={workers}",
            "--data.shard_size=5", "--data.batch_size=2",
        ]  # fmt: skip

    def clean(self, name, shards, workers=2):
        ending = self.commands.run(*self.arguments(name, shards, workers))
        assert ending.code == 0, ending.said
        return content(shards)

    def check(self, shards, **fault):
        """Go on from the old shards to the new ones with a fault; check what it left; go on."""
        shutil.rmtree(shards, ignore_errors=True)
        shutil.copytree(self.folder / "from-old", shards)
        ending = self.commands.run(*self.arguments("new", shards), **fault)
        assert ending.code in (0, -9) or ending.is_refusal(), ending.said
        old, new = self.states
        for name, data in content(shards).items():
            assert data in (old.get(name), new.get(name)), f"{name} is neither old nor new"
        try:
            assert read_prepared(shards).index_hash in self.hashes
        except ElfError as error:
            assert ending.code != 0 and "\n" not in str(error)
        assert self.clean("new", shards) == new
        assert not list(shards.glob(".*.tmp"))
        return ending


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_models, commands):
    return World(tmp_path_factory.mktemp("world"), tiny_models["base"], commands)


@pytest.mark.fault(2, 7)
@pytest.mark.parametrize(
    "step", [67, pytest.param(1, marks=(pytest.mark.slow, pytest.mark.timeout(7200)))]
)
def test_operations_of_the_disk_fail(world, tmp_path, fault, step, figures):
    """One in `step` of some 290 that a run makes below the folder of shards."""
    runs = 0
    for at in count(1 + ord(fault.letter) % step, step):
        shards = tmp_path / "shards"
        ending = world.check(shards, below=shards, fault=fault.letter, at=at)
        if not ending.met:
            break
        assert not fault.harmless or ending.code == 0, ending.said
        runs += 1
    assert runs > 50 / step
    figures(operations=runs, mixtures=0)


@pytest.mark.fault(2)
@pytest.mark.parametrize(
    "kills", [3, pytest.param(50, marks=(pytest.mark.slow, pytest.mark.timeout(7200)))]
)
def test_killed_at_random_instants(world, tmp_path, kills, figures):
    kills = figures.part(kills)
    start = time.monotonic()
    world.clean("new", tmp_path / "timed")
    whole = time.monotonic() - start
    draw, killed, runs = random.Random(0), 0, 0
    while killed < kills:
        ending = world.check(tmp_path / "shards", kill_after=draw.uniform(0.3, 1) * whole)
        killed += ending.code == -9
        runs += 1
        assert runs < 20 * kills
    figures(kills=killed, differing_bytes=0)


def test_every_number_of_workers_gives_the_same_bytes(world, tmp_path):
    one, four = (world.clean("new", tmp_path / f"{n}", workers=n) for n in (1, 4))
    assert one == four
    kinds = {name.split("-")[0] for name in one}
    assert kinds == {"train", "heldout", "latents", "flipped", "masks", "captions", "prepared.json"}
