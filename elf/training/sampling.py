"""Sample pictures of a network that is in training, as the pipeline of its base makes them."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from PIL import Image

from elf.bases import Base
from elf.generation import (
    Encode,
    GenerationConfig,
    RememberedPrompts,
    encode_prompts,
    generate,
)
from elf.training.compiling import uncompiled
from elf.training.denoiser import Denoiser


class Sampler:
    """Samples with a denoiser as it is at the moment.

    Args:
        base: Has the other parts, which are loaded at first use.
        denoiser: The network, with the text encoders that are in training or at hand.
        adapts_text: Whether text encoders are trained: a prompt's states then change.
    """

    def __init__(self, base: Base, denoiser: Denoiser, adapts_text: bool) -> None:
        self._base, self._denoiser, self._adapts_text = base, denoiser, adapts_text

    @cached_property
    def _pipeline(self) -> Any:
        encoders: Any = dict(self._denoiser.text_encoders)
        return self._base.pipeline(self._denoiser.unet, encoders, self._denoiser.dtype)

    @cached_property
    def _encode(self) -> Encode:
        encode = self._base.prompt_encoder(self._pipeline)
        return encode if self._adapts_text else RememberedPrompts(encode)

    def remember(self, prompts: list[str], config: GenerationConfig, device: torch.device) -> None:
        """Make the text states of prompts that will be sampled, while there is memory for it."""
        if not self._adapts_text:
            encode_prompts(self._pipeline, prompts, config, device, self._encode)

    def __call__(
        self,
        prompts: list[str],
        seeds: list[int],
        config: GenerationConfig,
        device: torch.device,
        stop: Callable[[], bool] | None = None,
    ) -> list[Image.Image]:
        """Sample one picture for each prompt and its seed."""
        was_training = self._denoiser.training
        self._denoiser.eval()
        try:
            with uncompiled():
                return generate(
                    self._pipeline, prompts, seeds, config, device, stop=stop, encode=self._encode
                )
        finally:
            self._denoiser.train(was_training)
