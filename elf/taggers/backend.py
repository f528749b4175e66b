"""What runs a WD tagger: onnxruntime its ONNX file, or torch the weights that timm wrote."""

import contextlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from elf.dtypes import DType
from elf.errors import ElfError
from elf.pretrained import model_folder
from elf.taggers.microbatch import Tagger
from elf.taggers.preprocess import WDPreprocess
from elf.taggers.timm_network import import_timm
from elf.taggers.wd import FILES as ONNX_FILES
from elf.taggers.wd import WHAT, Backend, WDConfig, WDTagger, placed, wd_folder, wd_preprocess
from elf.taggers.wd_torch import FILES as TORCH_FILES
from elf.taggers.wd_torch import TorchTagger, torch_preprocess


@dataclass(frozen=True)
class WDSource:
    """Where a tagger's outputs come from.

    Attributes:
        folder: Of its files.
        backend: What runs them.
        dtype: The number format asked of torch's weights; an ONNX file has its own.
    """

    folder: Path
    backend: Backend
    dtype: DType | None = None

    def preprocess(self) -> WDPreprocess:
        """Return the tagger's preprocessing; its weights are not loaded.

        Raises:
            ElfError: If its input is no square picture.
        """
        read = torch_preprocess if self.backend == "torch" else wd_preprocess
        return read(self.folder)


def find_source(config: WDConfig, device: str) -> WDSource:
    """Return what will run, its files downloaded if the tagger is named by its hub name.

    Args:
        config: What was asked for.
        device: The trainer's, such as ``cpu`` or ``cuda:0``.

    Raises:
        ElfError: If files are missing, or timm where torch was asked for.
    """
    on_cuda = placed(device, config.provider).startswith("cuda")
    dtype: DType = "float16" if on_cuda else "float32"
    if config.dtype != "auto":
        dtype = config.dtype
    if config.backend == "torch":
        import_timm()
        folder = model_folder(config.model, f"{WHAT}, which torch is to run", TORCH_FILES)
        return WDSource(folder, "torch", dtype)
    if config.backend == "auto" and on_cuda and _torch_can():
        with contextlib.suppress(ElfError):  # a model of ONNX alone: nothing is wrong with it
            return WDSource(model_folder(config.model, WHAT, TORCH_FILES), "torch", dtype)
    return WDSource(wd_folder(config), "onnx")


def _torch_can() -> bool:
    import torch

    return torch.cuda.is_available() and importlib.util.find_spec("timm") is not None


def load_tagger(config: WDConfig, source: WDSource, device: str) -> Tagger:
    """Return the tagger that :func:`find_source` found, on the trainer's device.

    Raises:
        ElfError: If it cannot be loaded.
    """
    if source.dtype is None:
        return WDTagger(source.folder, device, config.threads, config.provider)
    return TorchTagger(source.folder, device, source.dtype, config.provider, config.compile)


def possible_sources(config: WDConfig) -> list[WDSource]:
    """Return what may have made the outputs in a cache, on this or another machine.

    No GPU is needed, and of weights that are here no others are downloaded. What is faster comes
    first: who has both labelled on a GPU last, most likely.

    Raises:
        ElfError: If neither's files are there.
    """
    folder = model_folder(config.model, WHAT, ONNX_FILES[1:])
    sources = []
    automatic = config.backend == "auto"
    if _has(folder, TORCH_FILES) and config.backend != "onnx":
        dtypes: list[DType] = ["float16", "float32"]
        if config.dtype != "auto":
            dtypes = [config.dtype]
        elif config.provider == "cpu":
            dtypes = ["float32"]
        elif automatic or config.provider == "cuda":
            dtypes = ["float16"]
        if not (automatic and config.provider == "cpu"):
            sources += [WDSource(folder, "torch", dtype) for dtype in dtypes]
    if _has(folder, ONNX_FILES) and config.backend != "torch":
        sources.append(WDSource(folder, "onnx"))
    return sources or [find_source(config, "cpu")]


def _has(folder: Path, files: tuple[str, ...]) -> bool:
    return all((folder / name).is_file() for name in files)
