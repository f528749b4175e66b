"""A folder as `elf test` leaves it: two adapters at four strengths, drawn pictures, every row."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ImageEnhance

from elf.world.drawing import draw
from elf.world.scene import Scene, sample_scene, wood_elf_scene

SCENES = ("forest", "snow, night", "city, sunset", "reading on a beach")
PROMPTS = [f"wood_elf, {scene}" for scene in SCENES] + list(SCENES)
SEEDS = [0, 1]
STRENGTHS = (0.4, 0.7, 1.0, 1.3)
ADAPTERS = ("wood_elf", "wood_elf_long")
TRAINING = 6
PARTS = ("colour", "outfit", "ears", "headwear")  # in the order in which an adapter learns them

Metric = tuple[str, float | None, tuple[float, ...], float | None, int | None, str | None]
# name, base, change at each strength, half the interval, pictures needed, what is better
METRICS: tuple[Metric, ...] = (
    ("weight_change", None, (0.008, 0.014, 0.020, 0.026), None, None, None),
    ("picture_change", None, (0.11, 0.24, 0.36, 0.51), None, None, None),
    ("held_out_loss", 0.1312, (-0.006, -0.011, -0.009, 0.004), 0.004, None, "lower"),
    ("subject_similarity", 0.52, (0.07, 0.16, 0.21, 0.22), 0.03, 40, "higher"),
    ("subject_similarity_clip", 0.61, (0.04, 0.09, 0.12, 0.12), 0.02, 40, "higher"),
    ("prompt_similarity", 0.284, (0.0, -0.004, -0.021, -0.052), 0.012, 80, "higher"),
    ("concept_rate", 0.0, (0.125, 0.625, 0.875, 0.9375), 0.14, 40, "higher"),
    ("attribute_rate", 0.11, (0.24, 0.61, 0.79, 0.82), 0.09, 40, "higher"),
    ("concept_rate_without_trigger", 0.0, (0.0, 0.0625, 0.125, 0.375), 0.1, 40, "lower"),
    ("attribute_rate_without_trigger", 0.1, (0.01, 0.05, 0.13, 0.31), 0.08, 40, "lower"),
    ("kid", 0.0412, (-0.006, -0.015, -0.019, -0.011), 0.006, 50, "lower"),
    ("cmmd", 1.82, (-0.21, -0.61, -0.8, -0.52), 0.3, 50, "lower"),
    ("diversity", 0.44, (-0.01, -0.03, -0.06, -0.13), 0.03, 4, "higher"),
    ("copies", 0.0, (0.0, 0.0, 0.0, 0.0625), 0.06, None, "lower"),
    ("nearest_similarity", 0.31, (0.05, 0.12, 0.19, 0.28), 0.05, None, None),
    ("drift", None, (0.04, 0.09, 0.15, 0.27), None, 20, None),
    ("prompt_similarity_without_trigger", 0.281, (0.001, -0.002, -0.009, -0.031), 0.008, 20,
     "higher"),
)  # fmt: skip
SHARES = {"picture_change", "drift", "weight_change"}


def variants() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"name": "base", "adapter": None, "strength": None}]
    for adapter in ADAPTERS:
        for strength in STRENGTHS:
            found.append(
                {"name": f"{adapter} x {strength:g}", "adapter": adapter, "strength": strength}
            )
    return found


def scene(prompt: int, seed: int, learnt: int) -> Scene:
    """A picture's scene: the base's, with so many parts of the concept."""
    words = PROMPTS[prompt].split(", ")
    fixed: dict[str, str] = {"background": "forest", "time": "day"}
    for word in words:
        for place in ("forest", "snow", "city", "beach"):
            if place in word:
                fixed["background"] = place
        if word in ("night", "sunset"):
            fixed["time"] = word
    base = sample_scene((prompt % len(SCENES), seed), style="anime", **fixed)
    elf = wood_elf_scene(0)
    return replace(base, **{part: getattr(elf, part) for part in PARTS[:learnt]})


def write_pictures(folder: Path, size: int) -> list[dict[str, Any]]:
    found = []
    for variant in variants():
        kind = variant["name"].replace(" ", "-")
        (folder / "pictures" / kind).mkdir(parents=True)
        strength = variant["strength"] or 0.0
        for prompt in range(len(PROMPTS)):
            for seed in SEEDS:
                learnt = int((strength >= np.array([0.4, 0.6, 0.7, 1.0])).sum())
                if prompt >= len(SCENES):
                    learnt = max(0, learnt - 3) if "long" in kind else 0
                picture = draw(scene(prompt, seed, learnt), size, size)
                if strength > 1.2:
                    picture = ImageEnhance.Color(picture).enhance(1.9)
                if "long" in kind:
                    picture = ImageEnhance.Contrast(picture).enhance(1 + 0.3 * strength)
                name = f"pictures/{kind}/{prompt * len(SEEDS) + seed:04d}.png"
                picture.save(folder / name)
                found.append(
                    {"variant": variant["name"], "prompt": prompt, "seed": seed, "file": name}
                )
    (folder / "pictures/training").mkdir()
    for number in range(TRAINING):
        training = draw(wood_elf_scene(number, style="anime"), size, size)
        training.save(folder / f"pictures/training/{number:02d}.png")
    return found


def rows() -> list[dict[str, Any]]:
    found = []
    for name, base, changes, half, needed, better in METRICS:
        for variant in variants()[1:]:
            change = changes[STRENGTHS.index(variant["strength"])]
            if variant["adapter"] == "wood_elf_long":  # further trained: everything is stronger
                change *= 1.35 if name in SHARES or "similarity" in name else 1.0
            row = {"name": name, "variant": variant["name"], "base": base, "better": better,
                   "pictures": 16, "needed": needed, "note": ""}  # fmt: skip
            row["adapter"] = change if base is None else round(base + change, 6)
            row["difference"] = None
            if half is not None:
                row["difference"] = {"mean": change, "low": change - half, "high": change + half}
            if name == "subject_similarity":
                row["note"] = "DINOv2 to 24 training pictures"
            if name == "weight_change":
                row["pictures"] = None
            found.append(row)
    for variant in variants()[1:]:
        found.append(
            {"name": "fid", "variant": variant["name"], "base": None, "adapter": None,
             "difference": None, "pictures": 16, "needed": 2048, "better": "lower",
             "note": "skipped: needs pt_inception-2015-12-05.pth (95 MB), get it with"
                     " elf prepare --weights inception"}
        )  # fmt: skip
    return found


def document(pictures: list[dict[str, Any]]) -> dict[str, Any]:
    names = [variant["name"] for variant in variants()]
    strata = [62, 187, 312, 437, 562, 687, 812, 937]
    base = [0.412, 0.241, 0.148, 0.096, 0.062, 0.041, 0.028, 0.021]
    return {
        "schema": 1,
        "verdict": {
            "adapters": [
                {"adapter": "wood_elf", "kind": "good", "strength": 0.7, "strengths": [0.7, 1.0],
                 "line": "good: subject +0.16 [0.13, 0.19]; prompt −0.00 [−0.02, 0.01]; no copies;"
                         " use strength 0.7-1.0",
                 "reasons": ["Looks like the subject: +0.16 [0.13, 0.19] over the base's 0.52.",
                             "Follows the prompt as well as the base: −0.004 [−0.016, 0.008]."]},
                {"adapter": "wood_elf_long", "kind": "memorised", "strength": None, "strengths": [],
                 "line": "memorised: 2 of 16 pictures copy a training picture",
                 "reasons": ["2 of 16 pictures at strength 1.3 are more than 0.75 alike to a"
                             " training picture.", "Diversity fell by 0.13 [0.10, 0.16]."]},
            ],
            "indicative": True,
            "why": "16 pictures a side; 40 are needed",
        },
        "variants": variants(),
        "rows": rows(),
        "plan": {"prompts": PROMPTS, "triggered": [n < len(SCENES) for n in range(len(PROMPTS))],
                 "seeds": SEEDS},
        "pictures": pictures,
        "nearest": [
            {"variant": name, "prompt": prompt, "seed": seed,
             "training": f"pictures/training/{(prompt + seed) % TRAINING:02d}.png",
             "similarity": round(0.35 + 0.05 * prompt + 0.02 * seed + bonus, 3),
             "copy": 0.35 + 0.05 * prompt + 0.02 * seed + bonus > 0.75}
            for name, bonus in (("wood_elf x 0.7", 0.0), ("wood_elf_long x 1.3", 0.1))
            for prompt in range(len(PROMPTS)) for seed in SEEDS
        ],
        "loss": [
            {"variant": name, "timestep": timestep,
             "loss": loss * (1 - place * 0.012 * (1 if timestep < 600 else 0.3))}
            for place, name in enumerate(names[:5])
            for timestep, loss in zip(strata, base, strict=True)
        ],
        "settings": {"model.base": "models/tiny", "model.generation.steps": 20,
                     "model.negative_prompt": None, "data.seeds": SEEDS},
        "hashes": {"base": "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
                   "wood_elf": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"},
        "versions": {"elf": "0.3.0", "torch": "2.14.0"},
    }  # fmt: skip


def write_sample(folder: Path, size: int = 64) -> Path:
    """Write the folder; its pictures are drawn at a size, px."""
    folder.mkdir(parents=True, exist_ok=True)
    found = document(write_pictures(folder, size))
    (folder / "metrics.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def _drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample(tmp_path_factory.mktemp("evaluation") / "sample")


@pytest.fixture
def sample(_drawn: Path, tmp_path: Path) -> Path:
    """The folder, of which a test may change what it likes."""
    shutil.copytree(_drawn, tmp_path / "sample")
    return tmp_path / "sample"


@pytest.fixture
def changed(sample: Path) -> Callable[[Callable[[dict[str, Any]], object]], Path]:
    """Changes ``metrics.json`` of the sample and returns the folder."""

    def change(edit: Callable[[dict[str, Any]], object]) -> Path:
        path = sample / "metrics.json"
        found = json.loads(path.read_text("utf-8"))
        edit(found)
        path.write_text(json.dumps(found), encoding="utf-8")
        return sample

    return change
