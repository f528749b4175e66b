"""Does an exported file do what the adapter in memory does?"""

from pathlib import Path
from typing import cast

import numpy as np
import torch

from elf.export import read_adapter, read_origin
from elf.generation import GenerationConfig, generate
from elf.modules.diffusion import DiffusionModule


def picture_difference(
    base: str, source: str | Path, exported: Path, prompts: list[str], config: GenerationConfig
) -> float:
    """Compare pictures of a checkpoint's adapter with those of its exported file.

    The file is loaded by diffusers' own loader into a pipeline that has never seen the adapter.

    Args:
        base: Folder or hub name of the base model.
        source: A run folder or checkpoint.
        exported: What ``elf export`` wrote from it.
        prompts: One picture each.
        config: How to sample.

    Returns:
        The largest absolute difference of any pixel's channel, in 0..1.
    """
    settings, state = read_adapter(source)
    module = DiffusionModule(base, settings, **read_origin(source)[0])
    module.configure_model()
    module.load_state_dict(state)
    module.denoiser.eval()
    encoders = cast(dict[str, torch.nn.Module], dict(module.denoiser.text_encoders))
    own = module.base.pipeline(module.unet, encoders)
    fresh = module.base.pipeline(module.base.unet(torch.float32))
    fresh.load_lora_weights(str(exported.parent), weight_name=exported.name)
    seeds = [config.seed + number for number in range(len(prompts))]
    device = torch.device("cpu")
    pairs = zip(
        generate(own, prompts, seeds, config, device, "np"),
        generate(fresh, prompts, seeds, config, device, "np"),
        strict=True,
    )
    return max(float(np.abs(mine - theirs).max()) for mine, theirs in pairs)
