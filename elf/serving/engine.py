"""Draws with one base and many adapters: one request at a time, whatever asks for them."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from elf import __version__
from elf.adapters.slot import AdapterSlot
from elf.bases import Base
from elf.errors import ElfError
from elf.generation import GenerationConfig, SamplingStopped, generate
from elf.memory import is_out_of_memory
from elf.serving.catalog import Served
from elf.serving.request import Limits, Request, infotext

Progress = Callable[[int, int], None]
"""Is told after each denoising step how many of how many are done."""


@dataclass(frozen=True)
class Drawn:
    """A picture, with what was asked for and what is to be written into its file."""

    image: Image.Image
    request: Request
    infotext: str


class Engine:
    """A base that draws, with one adapter in it at a time.

    The base's own weights are never changed: an adapter is put around its layers, and taken out.

    Args:
        base: The base.
        served: The adapters that can be asked for.
        device: Where it draws.
        dtype: Of the networks.
        limits: Of what may be asked for.
    """

    def __init__(
        self,
        base: Base,
        served: list[Served],
        device: torch.device,
        dtype: torch.dtype,
        limits: Limits = Limits(),  # noqa: B008 (a constant)
    ) -> None:
        self.base, self.limits, self.device = base, limits, device
        self.served = {each.name: each for each in served}
        unet = base.unet(dtype).to(device)
        self.pipeline = base.pipeline(unet, dtype=dtype)
        self._encode = base.prompt_encoder(self.pipeline)
        self._lock = threading.Lock()
        parts: list[Any] = ["unet", *base.text_encoder_names]
        self._slot = AdapterSlot({part: getattr(self.pipeline, part) for part in parts})

    def draw(
        self,
        requests: list[Request],
        progress: Progress = lambda done, of: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> list[Drawn]:
        """Draw what is asked for, in turn; others wait.

        Args:
            requests: The pictures.
            progress: Is told of each step.
            stopped: Is asked after each step whether to stop.

        Raises:
            ElfError: If a request is beyond the limits, names no adapter, or takes too much memory.
            SamplingStopped: If it was told to.
        """
        checked = [self._checked(request) for request in requests]
        steps, drawn = sum(request.steps for request in checked), list[Drawn]()
        done = 0

        def step() -> bool:
            nonlocal done
            done += 1
            progress(done, steps)
            return stopped()

        with self._lock:
            for request in checked:
                if stopped():
                    raise SamplingStopped
                drawn.append(self._draw(request, step))
        return drawn

    def _checked(self, request: Request) -> Request:
        if request.adapter is not None and request.adapter not in self.served:
            raise ElfError(f"there is no adapter {request.adapter!r}")
        return request.checked(self.limits)

    def _draw(self, request: Request, step: Callable[[], bool]) -> Drawn:
        served = self.served[request.adapter] if request.adapter is not None else None
        prompt = request.with_trigger(served.trigger if served else None)
        config = GenerationConfig(
            steps=request.steps,
            guidance=request.guidance,
            negative_prompt=request.negative_prompt,
            width=request.width,
            height=request.height,
        )
        self._set(served, request.strength)
        try:
            (image,) = generate(
                self.pipeline, [prompt], [request.seed], config, self.device, stop=step,
                encode=self._encode,
            )  # fmt: skip
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise ElfError(
                f"{request.width} × {request.height} px take more memory than {self.device} has"
            ) from None
        sampler = type(self.pipeline.scheduler).__name__
        name = Path(self.base.name).stem
        return Drawn(image, request, infotext(request, prompt, name, sampler, __version__))

    def _set(self, served: Served | None, strength: float) -> None:
        """Let the networks have an adapter at a strength; at 0, and without one, be the base."""
        if served is None:
            self._slot.empty()
        else:
            trained = served.trained
            self._slot.hold(served.name, trained.config, trained.state, strength)
