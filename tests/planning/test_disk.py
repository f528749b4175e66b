"""Disk needed is what is written."""

from pathlib import Path

import numpy as np

from elf.planning.disk import checkpoint_bytes, latent_bytes, sample_bytes, text_bytes
from elf.preparation.caches import pack
from elf.preparation.shards import Sample, write_shard


def written(folder: Path, samples: list[Sample]) -> int:
    write_shard(folder / "some.tar", samples)
    return (folder / "some.tar").stat().st_size


def test_latents_take_what_a_shard_takes(tmp_path: Path) -> None:
    array = np.zeros((2, 4, 10, 8), np.float32)
    samples = [
        Sample(f"{n:016x}", {"latent.npy": pack(array, "")}, {"stamp": "0" * 16, "shape": [1]})
        for n in range(9)
    ]
    predicted = latent_bytes({(64, 80): 9}, 4, 8)
    assert 0 <= written(tmp_path, samples) - predicted < 10_240  # the tar's end


def test_text_states_take_what_a_shard_takes(tmp_path: Path) -> None:
    members = {
        "text.npy": pack(np.zeros((77, 32), np.float32), ""),
        "pooled.npy": pack(np.zeros(16, np.float32), ""),
    }
    samples = [Sample(f"{n:016x}", members, {"stamp": "0" * 16}) for n in range(9)]
    assert 0 <= written(tmp_path, samples) - text_bytes(9, 77, 32, 16) < 10_240


def test_checkpoints_and_samples() -> None:
    assert checkpoint_bytes(100, 800, False, 2) == 2 * (400 + 800)
    assert checkpoint_bytes(100, 800, True, 1) == 400 + 400 + 800
    assert sample_bytes([(10, 20), (10, 10)], 2, 3) == 3 * 2 * 2 * 3 * 300
