"""A file draws what its training drew: by diffusers' own loader, and by Elf's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elf.adapters import AdapterConfig
from elf.bases import open_base
from elf.export import export_diffusers, read_adapter, read_origin
from elf.export.command import export_kohya
from elf.export.trained import read_trained
from elf.generation import GenerationConfig, generate
from elf.modules import DiffusionModule
from elf.serving.catalog import Served
from elf.serving.engine import Engine
from elf.serving.request import Request

ALL, TEXT = "attention+feedforward+convolutions", "attention+feedforward"
CONFIGS = {
    "lora": AdapterConfig(rank=4, alpha=3, targets=ALL),
    "dora": AdapterConfig("dora", 4, 3, ALL),
    "rslora": AdapterConfig(rank=4, alpha=3, rslora=True),
    "lora of text encoders": AdapterConfig(rank=4, alpha=3, text_targets=TEXT),
    "dora of text encoders": AdapterConfig("dora", 4, 3, ALL, text_targets=TEXT),
}
SAMPLING = GenerationConfig(steps=4, guidance=3.0, width=64, height=64, batch_size=2)
PROMPTS, SEEDS, CPU = ["wood_elf, forest", "forest, night"], [0, 1], torch.device("cpu")
ROUNDING = 0.002
"""Grey levels of 255 by which pictures may differ before they are rounded to whole ones: peft adds
up in another order than Elf does, and float32 shows it."""
Make = Callable[[str, AdapterConfig], Any]


def pixels(pictures: list[Any]) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures]).astype(float)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_diffusers_draws_the_trained_pictures(
    family: str, name: str, run: Make, tmp_path: Path
) -> None:
    """But for pixels that lie at the border of two grey levels, which float32 rounds either way."""
    made = run(family, CONFIGS[name])
    file = export_diffusers(made.folder, tmp_path / "out", "float32")
    base = open_base(str(made.base))
    fresh = base.pipeline(base.unet(torch.float32))
    plain = pixels(generate(fresh, PROMPTS, SEEDS, SAMPLING, CPU))
    fresh.load_lora_weights(str(file.parent), weight_name=file.name)
    theirs = pixels(generate(fresh, PROMPTS, SEEDS, SAMPLING, CPU))
    trained = pixels(made.module.generate(PROMPTS, SAMPLING, SEEDS))
    assert np.abs(trained - plain).max() > 5  # it is seen
    off = np.abs(trained - theirs)
    assert off.max() <= 1
    assert (off > 0).any(-1).mean() <= 1e-3
    own = base.pipeline(made.module.unet, dict(made.module.denoiser.text_encoders))
    exact, exactly = (
        pixels(generate(each, PROMPTS, SEEDS, SAMPLING, CPU, "np")) * 255 for each in (own, fresh)
    )
    assert np.abs(exact - exactly).max() <= ROUNDING
    assert np.abs(exact - trained).max() <= 0.5 + ROUNDING  # it is the same picture


@pytest.mark.parametrize("name", [*CONFIGS, "dora of text encoders, input axis"])
@pytest.mark.parametrize("family", ["sd15", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_elf_draws_them_from_a_file_to_the_last_bit(
    family: str, name: str, run: Make, tmp_path: Path
) -> None:
    """Loaded for training, and served; of text encoders' DoRA, too."""
    axis = AdapterConfig("dora", 4, 3, axis="input", text_targets=TEXT)
    made = run(family, CONFIGS.get(name, axis))
    base = str(made.base)
    if name in CONFIGS:
        file = export_diffusers(made.folder, tmp_path / "out", "float32")
    else:
        found = export_kohya(read_trained(made.folder), base, tmp_path / "out", "float32")
        assert found is not None
        file = found
    alone = GenerationConfig(**{**vars(SAMPLING), "batch_size": 1})
    trained = pixels(made.module.generate(PROMPTS, alone, SEEDS))
    config, state = read_adapter(file, base)
    loaded = DiffusionModule(base, config, **read_origin(file)[0])
    loaded.configure_model()
    loaded.load_state_dict(state)
    assert np.array_equal(pixels(loaded.generate(PROMPTS, alone, SEEDS)), trained)
    served = [Served("elf", read_trained(file, base), None)]
    engine = Engine(open_base(base), served, CPU, torch.float32)
    asked = [
        Request(prompt, "", "elf", 1.0, seed, SAMPLING.steps, SAMPLING.guidance, 64, 64)
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True)
    ]
    assert np.array_equal(pixels([drawn.image for drawn in engine.draw(asked)]), trained)
