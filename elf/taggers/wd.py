"""The WD family of taggers (SmilingWolf's), run by onnxruntime."""

import contextlib
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8

from elf.errors import ElfError, ElfWarning
from elf.onnxproviders import CUDA, execution_providers
from elf.pretrained import model_folder
from elf.taggers.microbatch import Outputs, Tagger, fitting_batch, free_memory
from elf.taggers.onnx_head import head_input, with_output
from elf.taggers.onnx_input import input_shape
from elf.taggers.preprocess import WDPreprocess
from elf.taggers.tags import TagList

WHAT = "tagger (model.wd.model)"
FILES = ("model.onnx", "selected_tags.csv")
Provider = Literal["auto", "cpu", "cuda"]
Backend = Literal["onnx", "torch"]

MAX_FEATURES = 4096
"""Wider inner tensors are not kept as embeddings."""

ACTIVATIONS = 150
"""Bytes of activations for a byte of input: about 360 MB a picture of 448 px."""

_NUMPY_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass(frozen=True)
class WDConfig:
    """A WD tagger.

    Args:
        model: Folder with selected_tags.csv and model.onnx, or model.safetensors and config.json,
            or both; or a hub name (owner/name).
        threads: CPU threads of onnxruntime; 0 takes one a core.
        provider: Where it runs; ``auto`` goes with the trainer's accelerator and falls back to the
            CPU with a warning, ``cuda`` refuses to.
        backend: What runs it: ``onnx`` the ONNX file, ``torch`` the timm weights of the v3
            taggers; ``auto`` takes torch on CUDA where the model has such weights, else ONNX.
        dtype: Number format of torch's weights; ``auto`` takes float16 on CUDA and float32 on a
            CPU. Formats of 16 bits are tried against float32 at the start.
        compile: Compile the torch network: a minute at the start, faster from then on.
    """

    model: str = "SmilingWolf/wd-swinv2-tagger-v3"
    threads: int = 0
    provider: Provider = "auto"
    backend: Literal["auto", "onnx", "torch"] = "auto"
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    compile: bool = False


def wd_folder(config: WDConfig) -> Path:
    """Return the folder of the tagger's ONNX file, downloaded if it is named by its hub name."""
    return model_folder(config.model, WHAT, FILES)


def placed(device: str, provider: Provider) -> str:
    """Return where a tagger runs, given the trainer's device and what was asked for."""
    if provider == "auto" or (provider == "cuda" and device.startswith("cuda")):
        return device
    return provider


def wd_preprocess(folder: Path) -> WDPreprocess:
    """Return the preprocessing for the ONNX file in a folder; its weights are not loaded.

    Raises:
        ElfError: If the model's input is not a square picture with its channels last.
    """
    shape = input_shape(folder / FILES[0])
    _, height, width, channels = shape
    if height is None or height != width or channels != 3:
        sizes = ", ".join("?" if size is None else str(size) for size in shape)
        raise ElfError(
            f"{folder / FILES[0]}: takes ({sizes}), not (batch, size, size, 3); "
            "is it a WD tagger's ONNX file?"
        )
    return WDPreprocess(height)


class WDTagger(Tagger):
    """A tagger's ONNX file: it gives probabilities already, no further sigmoid.

    Attributes:
        provider: The execution provider that the session really got.
        fixed_batch: The batch size that is written into the file, or None; such files give
            wrong results at any other size, so that pictures are run one by one.
    """

    def __init__(
        self,
        folder: Path,
        device: str = "cpu",
        threads: int = 0,
        provider: Provider = "auto",
    ) -> None:
        self.path = folder / FILES[0]
        self.tags = TagList.read(folder / FILES[1])
        wanted = placed(device, provider)
        self._session = _session(self.path, wanted, threads)
        self.provider = self._session.get_providers()[0]
        if wanted.startswith("cuda") and self.provider != CUDA:
            reason = (
                f"{self.path} runs on {self.provider} although a GPU was asked for: onnxruntime "
                "finds no CUDA libraries that fit it"
            )
            if provider == "cuda":
                raise ElfError(f"model.wd.provider: {reason}; `auto` takes the CPU instead")
            warnings.warn(reason, ElfWarning, stacklevel=2)
        model_input = self._session.get_inputs()[0]
        self._input = model_input.name
        self._type = _NUMPY_TYPES.get(model_input.type, np.float32)
        batch = model_input.shape[0]
        self.fixed_batch = batch if isinstance(batch, int) and batch > 0 else None
        self._inputs = np.empty((0, 1, 1, 3), self._type)
        size = [side for side in model_input.shape[1:] if isinstance(side, int)]
        if self.provider == CUDA:
            picture = math.prod(size) * 4 * ACTIVATIONS
            self.micro_batch = fitting_batch(free_memory(wanted), picture)

    def _make_room(self) -> None:
        self._inputs = self._inputs[:0]

    def _describe(self, pixels: UInt8[np.ndarray, "..."]) -> tuple[Outputs, Outputs | None]:
        # (B, S, S, 3): RGB → BGR, 0-255 as floating point, channels last; a channel at a time is
        # seven times as fast as the reversed axis in one go
        if len(pixels) > len(self._inputs):  # new memory costs as much as the network's first layer
            self._inputs = np.empty(pixels.shape, self._type)
        inputs = self._inputs[: len(pixels)]
        for channel in range(3):
            inputs[..., channel] = pixels[..., 2 - channel]
        if self.fixed_batch is None:
            return self._run(inputs)
        rows = [self._run(np.repeat(row[None], self.fixed_batch, 0)) for row in inputs]
        embeddings = [features[:1] for _, features in rows if features is not None]
        scores = np.concatenate([scores[:1] for scores, _ in rows])
        return scores, np.concatenate(embeddings) if embeddings else None

    def _run(self, inputs: Float[np.ndarray, "..."]) -> tuple[Outputs, Outputs | None]:
        scores, *inner = self._session.run(None, {self._input: inputs})
        embedding = None
        if inner and inner[-1].ndim == 2 and inner[-1].shape[1] <= MAX_FEATURES:
            embedding = np.asarray(inner[-1], dtype=np.float32)
        return np.asarray(scores, dtype=np.float32), embedding


def _session(path: Path, device: str, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # threads that wait for the next batch must not take the cores from those that decode it
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors; what matters of its warnings is asked for above
    providers = execution_providers(device)
    head = head_input(path)
    if head is not None:
        # a graph that does not take the further output is still a good tagger
        with contextlib.suppress(Exception):
            model = with_output(path.read_bytes(), head)
            return onnxruntime.InferenceSession(model, options, providers=providers)
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # onnxruntime's own classes have no common base but this
        reason = " ".join(str(error).split())[:200]
        raise ElfError(
            f"{path}: could not be loaded ({reason}); fetch the file again from where the model is"
        ) from None
