"""The WD family of taggers (SmilingWolf's), run by onnxruntime."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from elf.errors import ElfError
from elf.pretrained import model_folder
from elf.taggers.onnx_input import input_shape
from elf.taggers.preprocess import WDPreprocess
from elf.taggers.tags import TagList

FILES = ("model.onnx", "selected_tags.csv")
_NUMPY_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass(frozen=True)
class WDConfig:
    """A WD tagger.

    Args:
        model: Folder with model.onnx and selected_tags.csv, or a hub name (owner/name).
        threads: CPU threads of onnxruntime; 0 takes one a core.
    """

    model: str = "SmilingWolf/wd-swinv2-tagger-v3"
    threads: int = 0


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
    """

    def __init__(self, folder: Path, device: str = "cpu", threads: int = 0) -> None:
        self.path = folder / FILES[0]
        self.tags = TagList.read(folder / FILES[1])
        self._session = _session(self.path, device, threads)
        self.provider: str = self._session.get_providers()[0]
        if device.startswith("cuda") and self.provider != "CUDAExecutionProvider":
            warnings.warn(
                f"{self.path} runs on {self.provider} although a GPU was asked for: onnxruntime "
                "finds no CUDA libraries that fit it",
                stacklevel=2,
            )
        model_input = self._session.get_inputs()[0]
        self._input = model_input.name
        self._type = _NUMPY_TYPES.get(model_input.type, np.float32)
        batch = model_input.shape[0]
        self.fixed_batch = batch if isinstance(batch, int) and batch > 0 else None

    def score(
        self, pixels: UInt8[np.ndarray, "batch size size 3"]
    ) -> Float32[np.ndarray, "batch tags"]:
        """Return the probability of each tag for RGB pictures.

        Raises:
            ElfError: If the outputs are no probabilities of the list's tags.
        """
        # (B, S, S, 3): RGB → BGR, 0-255 as floating point, channels last
        inputs = np.ascontiguousarray(pixels[..., ::-1], dtype=self._type)
        if self.fixed_batch is None:
            scores = self._run(inputs)
        else:
            rows = [self._run(np.repeat(row[None], self.fixed_batch, 0))[:1] for row in inputs]
            scores = np.concatenate(rows)
        if scores.shape != (len(pixels), len(self.tags)):
            raise ElfError(
                f"{self.path}: gives {scores.shape[-1]} scores for the {len(self.tags)} tags of "
                f"{FILES[1]}; the two files do not belong together"
            )
        if not (np.isfinite(scores).all() and scores.min() >= 0 and scores.max() <= 1):
            raise ElfError(f"{self.path}: its outputs are no probabilities between 0 and 1")
        return scores

    def _run(
        self, inputs: Float[np.ndarray, "batch size size 3"]
    ) -> Float32[np.ndarray, "batch tags"]:
        (scores,) = self._session.run(None, {self._input: inputs})[:1]
        return np.asarray(scores, dtype=np.float32)


def _session(path: Path, device: str, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; what matters of its warnings is asked for above
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.startswith("cuda"):
        index = int(device.partition(":")[2] or 0)
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": index}))
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # the CUDA libraries that came with torch
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # onnxruntime's own classes have no common base but this
        reason = " ".join(str(error).split())[:200]
        raise ElfError(
            f"{path}: could not be loaded ({reason}); fetch the file again from where the model is"
        ) from None
