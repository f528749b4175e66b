"""The v3 WD taggers by torch, from timm's weights: the networks of their ONNX files.

Such a network takes (B, 3, S, S), BGR, values of 0-1 normalised, and gives logits.
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from elf.dtypes import DType
from elf.errors import ElfError, ElfWarning
from elf.memory import is_out_of_memory
from elf.taggers.graphs import MOST, MOST_COMPILED, CudaGraphs
from elf.taggers.microbatch import UNLIMITED, Outputs, Tagger, fitting_batch, free_memory
from elf.taggers.preprocess import WDPreprocess
from elf.taggers.tags import TagList
from elf.taggers.timm_network import CONFIG, WEIGHTS, PixelNetwork, TimmSettings, load_network
from elf.taggers.wd import Provider, placed

FILES = (WEIGHTS, CONFIG, "selected_tags.csv")

LIMITS = {"float16": 0.01, "bfloat16": 0.05}
"""By how much a probability may differ from float32's on the test pictures.

Rounding alone moved those of a SwinV2-B with random weights by 0.002 to 0.006 in float16 and 0.013
to 0.042 in bfloat16, whose numbers have three bits less; an activation that saturates or a
normalisation that overflows moves them by tenths, and no NaN need tell of it.
"""


def torch_preprocess(folder: Path) -> WDPreprocess:
    """Return the preprocessing for the timm weights in a folder; they are not loaded.

    Raises:
        ElfError: If the config is damaged or the input is no square picture.
    """
    return WDPreprocess(TimmSettings.read(folder / CONFIG).size)


class TorchTagger(Tagger):
    """A tagger's network in torch; its embedding is what is pooled before the head.

    Attributes:
        device: Where it runs.
        dtype: The number format of its weights, by name: float32 where one of 16 bits was asked
            for and the network does not bear it.
        provider: ``torch``, the device's type and the number format.
    """

    def __init__(
        self,
        folder: Path,
        device: str = "cpu",
        dtype: DType = "float32",
        provider: Provider = "auto",
        compile: bool = False,
    ) -> None:
        self.path = folder / WEIGHTS
        self.tags = TagList.read(folder / FILES[2])
        self.device = torch.device(placed(device, provider))
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ElfError(
                f"model.wd.provider: torch {torch.__version__} finds no CUDA device; `auto` takes "
                "the CPU instead"
            )
        self._folder = folder
        self._settings = TimmSettings.read(folder / CONFIG)
        self._graphs: CudaGraphs | None = None
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._whole = 0  # pictures of a compiled run
        try:
            self._load()
            if dtype != "float32":
                self._shorten(dtype)
            if self.device.type == "cuda":
                self.micro_batch = self._fitting_batch(compile)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ElfError(
                f"{self.path}: not enough memory for the tagger on {self.device}; free some, or "
                "take the CPU (--model.wd.provider cpu)"
            ) from None
        if compile:
            self._compiled = torch.compile(self._network)
        if self.device.type == "cuda":
            most = MOST_COMPILED if compile else MOST
            self._graphs = CudaGraphs(self._launch, LIMITS["float16"], most)

    @property
    def dtype(self) -> str:
        """The number format of the weights, by name."""
        return str(self._network.dtype).removeprefix("torch.")

    @property
    def provider(self) -> str:  # type: ignore[override]  # it may change while it runs
        """What the network runs on."""
        return f"torch {self.device.type} {self.dtype}"

    def _load(self) -> None:
        network = load_network(self._folder, self._settings, len(self.tags))
        self._network = PixelNetwork(network, self._settings).to(self.device)
        self._network.cast(torch.float32)

    def _shorten(self, dtype: DType) -> None:
        """Give the weights 16 bits if the network bears it; say so if it does not.

        Half weights without autocast: torch's layer norm and softmax reckon in float32 inside
        whatever their inputs are. On the SwinV2-B above autocast's casts, which cost launches and
        memory, took a fifth off the differences.
        """
        size = self._settings.size
        exact = [self._forward(picture) for picture in check_pictures(size)]
        self._network.cast(getattr(torch, dtype))
        short = [self._forward(picture) for picture in check_pictures(size)]
        tags = len(self.tags)
        difference = max(
            float(np.abs(a[:, :tags] - b[:, :tags]).max())
            for a, b in zip(exact, short, strict=True)
        )
        if not np.isfinite(short).all():
            self._lengthen("its values are not finite")
        elif not difference <= LIMITS[dtype]:
            self._lengthen(f"a probability differs by {difference:.2g} from float32's")

    def _lengthen(self, reason: str) -> None:
        warnings.warn(
            f"{self.path}: in {self.dtype} {reason}; the tagger runs in float32, which is slower",
            ElfWarning,
            stacklevel=2,
        )
        self._load()
        self._compiled = self._graphs = None
        self._whole = 0

    def _fitting_batch(self, compile: bool) -> int:
        """Return how many pictures fit, from what a second one takes beside the first.

        If any number of them is captured, as a compiled network's is, its graph keeps the memory it
        ran with, beside that of the run it is compared with.
        """
        size, peaks = self._settings.size, []
        for count in (1, 2):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            self._forward(np.zeros((count, size, size, 3), np.uint8))
            peaks.append(torch.cuda.max_memory_allocated(self.device))
        torch.cuda.empty_cache()
        # an allocator's steps may hide a small network's second picture, but never its own input
        picture = max(peaks[1] - peaks[0], size * size * 3 * 4)
        free = free_memory(str(self.device)) // (2 if compile else 1)
        return min(UNLIMITED, fitting_batch(free, picture))

    def _at_once(self, count: int) -> int:
        return max(count, self._whole)

    def _make_room(self) -> None:
        self._whole = 0
        if self._graphs is not None:
            self._graphs.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _describe(self, pixels: UInt8[np.ndarray, "..."]) -> tuple[Outputs, Outputs | None]:
        rows = self._forward(pixels)
        if self.dtype != "float32" and not np.isfinite(rows).all():
            self._lengthen("its values are not finite for a picture")
            rows = self._forward(pixels)
        count = len(self.tags)
        return rows[:, :count], rows[:, count:]

    def _forward(self, pixels: UInt8[np.ndarray, "..."]) -> Outputs:
        """Return probabilities and features (B, T + D) of pictures (B, S, S, 3)."""
        cuda = self.device.type == "cuda"
        # As many as before, if the network is compiled: for another number it would be so again.
        count, whole = len(pixels), max(len(pixels), self._whole)
        # pinned memory is read by the device itself, while Python goes on
        host = torch.empty((whole, *pixels.shape[1:]), dtype=torch.uint8, pin_memory=cuda)
        host.numpy()[:count] = pixels
        host[count:] = 0
        with torch.inference_mode():
            outputs = self._run(host.to(self.device, non_blocking=True))
            rows: Outputs = outputs[:count].cpu().numpy()  # the only wait for the device
        self._whole = whole if self._compiled is not None else 0
        return rows

    def _run(self, pixels: UInt8[Tensor, "batch size size 3"]) -> Float[Tensor, "batch outputs"]:
        run = self._graphs or self._launch
        return run(pixels)

    def _launch(self, pixels: UInt8[Tensor, "batch size size 3"]) -> Float[Tensor, "batch outputs"]:
        if self._compiled is not None:
            from torch._dynamo.exc import TorchDynamoException

            try:
                return self._compiled(pixels)
            except TorchDynamoException as error:
                if is_out_of_memory(error):
                    raise
                reason = " ".join(str(error).split())[:160]
                warnings.warn(
                    f"model.wd.compile: torch could not compile the tagger ({reason}); it runs "
                    "uncompiled",
                    ElfWarning,
                    stacklevel=2,
                )
                self._compiled = None
                if self._graphs is not None:
                    self._graphs.most = MOST
        outputs: Tensor = self._network(pixels)
        return outputs


def check_pictures(size: int) -> list[UInt8[np.ndarray, "1 size size 3"]]:
    """Return a ramp, noise and flat white: what number formats are compared on."""
    shape = (1, size, size, 3)
    ramp = np.linspace(0, 255, size * size * 3).reshape(shape).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return [ramp, noise, np.full(shape, 255, np.uint8)]
