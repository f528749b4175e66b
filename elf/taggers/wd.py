"""The WD family of taggers (SmilingWolf's), run by onnxruntime."""

import contextlib
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float32, UInt8

from elf.errors import ElfError
from elf.pretrained import model_folder
from elf.taggers.onnx_head import head_input, with_output
from elf.taggers.onnx_input import input_shape
from elf.taggers.preprocess import WDPreprocess
from elf.taggers.tags import TagList

FILES = ("model.onnx", "selected_tags.csv")
CUDA = "CUDAExecutionProvider"
Provider = Literal["auto", "cpu", "cuda"]
Outputs = Float32[np.ndarray, "batch outputs"]

MAX_FEATURES = 4096
"""Wider inner tensors are not kept as embeddings."""

ACTIVATIONS = 150
"""Bytes of activations for a byte of input: about 360 MB a picture of 448 px."""

_OUT_OF_MEMORY = ("out of memory", "failed to allocate memory", "bad_alloc", "bfcarena")
_NUMPY_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass(frozen=True)
class WDConfig:
    """A WD tagger.

    Args:
        model: Folder with model.onnx and selected_tags.csv, or a hub name (owner/name).
        threads: CPU threads of onnxruntime; 0 takes one a core.
        provider: Where it runs; ``auto`` goes with the trainer's accelerator and falls back to the
            CPU with a warning, ``cuda`` refuses to.
    """

    model: str = "SmilingWolf/wd-swinv2-tagger-v3"
    threads: int = 0
    provider: Provider = "auto"


def wd_folder(config: WDConfig) -> Path:
    """Return the tagger's folder, downloaded if it is named by its hub name."""
    return model_folder(config.model, "tagger (model.wd.model)", FILES)


def wd_preprocess(folder: Path) -> WDPreprocess:
    """Return the preprocessing for the tagger in a folder; its weights are not loaded.

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


class WDTagger:
    """Scores of every tag of a list, as the model gives them: probabilities, no further sigmoid.

    Attributes:
        tags: The tag list.
        provider: The execution provider that the session really got.
        fixed_batch: The batch size that is written into the file, or None; such files give
            wrong results at any other size, so that pictures are run one by one.
        micro_batch: Pictures that are run at once at most; halved whenever memory runs out.
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
        wanted = device if provider == "auto" else provider
        if provider == "cuda" and device.startswith("cuda:"):
            wanted = device
        self._session = _session(self.path, wanted, threads)
        self.provider: str = self._session.get_providers()[0]
        if wanted.startswith("cuda") and self.provider != CUDA:
            reason = (
                f"{self.path} runs on {self.provider} although a GPU was asked for: onnxruntime "
                "finds no CUDA libraries that fit it"
            )
            if provider == "cuda":
                raise ElfError(f"model.wd.provider: {reason}; `auto` takes the CPU instead")
            warnings.warn(reason, stacklevel=2)
        model_input = self._session.get_inputs()[0]
        self._input = model_input.name
        self._type = _NUMPY_TYPES.get(model_input.type, np.float32)
        batch = model_input.shape[0]
        self.fixed_batch = batch if isinstance(batch, int) and batch > 0 else None
        size = [side for side in model_input.shape[1:] if isinstance(side, int)]
        self.micro_batch = 1 << 30
        if self.provider == CUDA:
            self.micro_batch = fitting_batch(free_memory(wanted), math.prod(size) * 4)

    def score(
        self, pixels: UInt8[np.ndarray, "batch size size 3"]
    ) -> Float32[np.ndarray, "batch tags"]:
        """Return the probability of each tag for RGB pictures.

        Raises:
            ElfError: If the outputs are no probabilities of the list's tags.
        """
        return self.describe(pixels)[0]

    def describe(
        self, pixels: UInt8[np.ndarray, "batch size size 3"]
    ) -> tuple[Float32[np.ndarray, "batch tags"], Float32[np.ndarray, "batch features"] | None]:
        """Return the probability of each tag, and an embedding if the graph has one.

        Raises:
            ElfError: If the outputs are no probabilities of the list's tags, or if the memory does
                not suffice for one picture.
        """
        parts = []
        at = 0
        while at < len(pixels):
            part = pixels[at : at + self.micro_batch]
            try:
                parts.append(self._describe(part))
                at += len(part)
            except Exception as error:  # onnxruntime's own classes have no common base but this
                if not is_out_of_memory(error):
                    raise
                if len(part) == 1:
                    raise ElfError(
                        f"{self.path}: not enough memory for a single picture on {self.provider}; "
                        "free some, or take the CPU (--model.wd.provider cpu)"
                    ) from None
                self.micro_batch = len(part) // 2
                warnings.warn(
                    f"out of memory with {len(part)} pictures at once; going on with "
                    f"{self.micro_batch}",
                    stacklevel=2,
                )
        scores = np.concatenate([part[0] for part in parts])
        embeddings = [part[1] for part in parts if part[1] is not None]
        if scores.shape != (len(pixels), len(self.tags)):
            raise ElfError(
                f"{self.path}: gives {scores.shape[-1]} scores for the {len(self.tags)} tags of "
                f"{FILES[1]}; the two files do not belong together"
            )
        if not (np.isfinite(scores).all() and scores.min() >= 0 and scores.max() <= 1):
            raise ElfError(f"{self.path}: its outputs are no probabilities between 0 and 1")
        return scores, np.concatenate(embeddings) if embeddings else None

    def _describe(self, pixels: UInt8[np.ndarray, "..."]) -> tuple[Outputs, Outputs | None]:
        # (B, S, S, 3): RGB → BGR, 0-255 as floating point, channels last; a channel at a time is
        # seven times as fast as the reversed axis in one go
        inputs = np.empty(pixels.shape, self._type)
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


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of onnxruntime says that memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY)


def free_memory(device: str) -> int:
    """Return the free bytes of a CUDA device."""
    import torch

    return int(torch.cuda.mem_get_info(torch.device(device))[0])


def fitting_batch(free: int, input_bytes: int) -> int:
    """Return how many pictures fit: the largest power of two for half of the free memory.

    Args:
        free: Bytes.
        input_bytes: Of one picture as the model's float32 input; its activations take about
            ``ACTIVATIONS`` times as much at their peak.
    """
    pictures = max(1, free // 2 // (input_bytes * ACTIVATIONS))
    return 1 << (pictures.bit_length() - 1)


def _session(path: Path, device: str, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # threads that wait for the next batch must not take the cores from those that decode it
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors; what matters of its warnings is asked for above
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.startswith("cuda"):
        index = int(device.partition(":")[2] or 0)
        providers.insert(0, (CUDA, {"device_id": index}))
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # the CUDA libraries that came with torch
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
