"""Faults 2 and 7 of `elf export`: the real command with a real run, on real files."""

import random
import shutil
import time
from itertools import count
from pathlib import Path

import pytest

RUNS = ("old", "new")


def content(folder: Path) -> dict[str, bytes]:
    """All that stands under a final name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("[!.]*")
        if path.is_file()
    }


class World:
    """Two runs, and what is exported of each."""

    def __init__(self, folder, base, make_run, commands):
        self.folder, self.base, self.commands = folder, base, commands
        for seed, name in enumerate(RUNS):
            make_run(folder / name / "wood_elf", base, seed)
            start = time.monotonic()
            self.clean(name, folder / f"of-{name}")
            self.seconds = time.monotonic() - start
        self.states = [content(folder / f"of-{name}") for name in RUNS]
        assert self.states[0].keys() == self.states[1].keys()
        assert not set(self.states[0].values()) & set(self.states[1].values())

    def arguments(self, name, output):
        run = self.folder / name / "wood_elf"
        return ["export", f"--input={run}", f"--output={output}", f"--base={self.base}",
                "--target=diffusers,kohya"]  # fmt: skip

    def clean(self, name, output):
        ending = self.commands.run(*self.arguments(name, output))
        assert ending.code == 0, ending.said

    def check(self, output, **fault):
        """Export the new run over the old one's files with a fault; see what it left; go on."""
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(self.folder / "of-old", output)
        ending = self.commands.run(*self.arguments("new", output), **fault)
        assert ending.code in (0, -9) or ending.is_refusal(), ending.said
        old, new = self.states
        left = content(output)
        assert left.keys() == new.keys()
        for name, data in left.items():
            assert data in (old[name], new[name]), f"{name} is neither old nor new"
        assert ending.code != 0 or left == new
        assert ending.code == -9 or not list(output.rglob(".*.tmp"))
        if left != new:
            self.clean("new", output)
            assert content(output) == new
        return ending


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_models, make_run, commands):
    return World(tmp_path_factory.mktemp("world"), tiny_models["base"], make_run, commands)


@pytest.mark.fault(2, 7)
@pytest.mark.parametrize(
    "step", [19, pytest.param(1, marks=(pytest.mark.slow, pytest.mark.timeout(3600)))]
)
def test_operations_of_the_disk_fail(world, tmp_path, fault, step, figures):
    """One in `step` of those that an export makes below its folder."""
    runs = 0
    for at in count(1 + ord(fault.letter) % step, step):
        output = tmp_path / "output"
        ending = world.check(output, below=output, fault=fault.letter, at=at)
        if not ending.met:
            break
        assert not fault.harmless or ending.code == 0, ending.said
        runs += 1
    assert runs or step > 1
    figures(operations=runs, mixtures=0)


@pytest.mark.fault(2)
@pytest.mark.parametrize(
    "kills", [3, pytest.param(50, marks=(pytest.mark.slow, pytest.mark.timeout(3600)))]
)
def test_killed_at_random_instants(world, tmp_path, kills, figures):
    kills, draw = figures.part(kills), random.Random(0)
    killed = runs = 0
    while killed < kills:
        after = draw.uniform(0.2, 1) * world.seconds
        killed += world.check(tmp_path / "output", kill_after=after).code == -9
        runs += 1
        assert runs < 20 * kills
    figures(kills=killed, differing_bytes=0)
