"""What `elf plan` counts by pictures' headers is what `elf prepare` makes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from elf.planning.pictures import of_prepared, of_sources
from elf.preparation.measuring import make_placing
from elf.preparation.prepare import prepare
from elf.preparation.prepared import read_prepared
from elf.preparation.sets import PictureSet, fill_in
from elf.preparation.settings import Settings

SHAPES = [(64, 64), (80, 48), (48, 80)]


def fill(folder: Path, numbers: range) -> str:
    """Put pictures of several shapes, with captions, into a folder."""
    folder.mkdir()
    for number in numbers:
        width, height = SHAPES[number % 3]
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"tok, {number}", "utf-8")
    return str(folder)


@pytest.mark.parametrize("text_states", ["cached", "live"])
def test_of_flips_with_held_out_and_class_pictures(
    tmp_path: Path, pooling_encoder: Any, text_states: Any
) -> None:
    given = [
        PictureSet(fill(tmp_path / "elf", range(20)), trigger="tok", repeats=2, flip=True),
        PictureSet(fill(tmp_path / "other", range(20, 30)), regularisation=True, flip=True),
        PictureSet(fill(tmp_path / "far", range(30, 34)), unrelated=True),
    ]
    sets = fill_in(given, "both", None, 0.1, text_states=text_states)
    settings = Settings(
        resolution=64, bucket_step=8, held_out=0.2, sets=sets, text_states=text_states
    )
    placing = make_placing(settings, pooling_encoder.latent_factor)
    planned = of_sources(settings, sets, placing)
    assert planned.held_out > 4  # some of those that are learnt, too
    summary = prepare(pooling_encoder, settings, shards=tmp_path / "shards")
    made = of_prepared(read_prepared(tmp_path / "shards", settings), settings, placing)
    assert planned.cached == made.cached
    assert planned.cached.total() == summary.latents
    assert planned.samples == made.samples == summary.samples
    assert (planned.trained, planned.held_out) == (summary.pictures, summary.held_out)
    assert (planned.buckets, planned.texts) == (made.buckets, made.texts)
