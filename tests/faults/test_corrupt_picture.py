"""Fault 12 of `elf prepare`: picture k of a labelled folder is damaged, for every k."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from elf.images import picture_id
from elf.preparation.prepare import prepare
from elf.preparation.settings import Settings

COUNT = 5
DAMAGES = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "noise": lambda data: b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
}


def write_labelled(folder: Path, pictures: dict[str, bytes]) -> Path:
    """Write pictures, and labels of the bytes that they have."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "raw").mkdir(parents=True)
    (folder / "labels").mkdir()
    lines = []
    for name, data in pictures.items():
        key = picture_id(data)
        (folder / "raw" / name).write_bytes(data)
        (folder / f"labels/{key}.txt").write_text("tok\n")
        lines.append(json.dumps({"id": key, "path": name, "tags": [], "caption": ""}) + "\n")
    (folder / "labels/manifest.jsonl").write_text("".join(lines))
    return folder


@pytest.mark.fault(12)
@pytest.mark.parametrize("damage", DAMAGES)
def test_it_is_dropped_by_name_and_the_shards_are_those_of_the_others(
    damage: str, tmp_path: Path, pooling_encoder: Any, figures: Any
) -> None:
    whole = {}
    for number in range(COUNT):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 70, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "picture.png")
        whole[f"{number}.png"] = (tmp_path / "picture.png").read_bytes()

    def shards(pictures: dict[str, bytes]) -> tuple[dict[str, bytes], list[str]]:
        folder = write_labelled(tmp_path / "set", pictures)
        settings = Settings(resolution=64, bucket_step=8, held_out=0.0)
        said = prepare(pooling_encoder, settings, folder / "raw", folder / "labels", folder / "out")
        made = {path.name: path.read_bytes() for path in (folder / "out").glob("[!.]*")}
        return made, [drop.path for drop in said.dropped]

    for name, data in whole.items():
        others = {other: whole[other] for other in whole if other != name}
        made, dropped = shards({**whole, name: DAMAGES[damage](data)})
        assert dropped == [name]
        assert made == shards(others)[0]
    figures(pictures=COUNT, crashes=0)
