"""Outputs of the models, kept between runs so that a change of rules needs no model."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from elf.caching.fileindex import FileIndex
from elf.caching.tagcache import ResultCache
from elf.taggers.backend import WDSource
from elf.taggers.florence import FILES as FLORENCE_FILES
from elf.taggers.florence import FlorenceConfig
from elf.taggers.outputs import CAPTION_FORMAT, FORMAT, CaptionOutput, ScoreOutput
from elf.taggers.timm_network import CONFIG, WEIGHTS
from elf.taggers.wd import FILES as WD_FILES

Output = TypeVar("Output", ScoreOutput, CaptionOutput)


def wd_key(source: WDSource, files: FileIndex, preprocessing: str) -> str:
    """Return the name of what a tagger gives: its weights' hash and the pixels'.

    Torch's weights make another network with another config, and slightly other scores in another
    number format. It is the format that was asked for, for it is known before the weights are
    read; where they do not bear it, what each picture was scored in stands in its output.
    """
    if source.backend == "onnx":
        network = files.sha256(source.folder / WD_FILES[0])[:16]
    else:
        weights, config = (files.sha256(source.folder / name) for name in (WEIGHTS, CONFIG))
        network = f"{weights[:16]}-{config[:8]}-{source.dtype}"
    return f"wd-{network}-{preprocessing}-{FORMAT}"


def florence_key(
    folder: Path, files: FileIndex, config: FlorenceConfig, device: str, preprocessing: str
) -> str:
    """Return the name of what a captioner in a folder gives, with its task and its length."""
    names = {path for pattern in FLORENCE_FILES for path in folder.glob(pattern)}
    found = [[path.name, files.sha256(path)] for path in sorted(names)]
    dtype = config.dtype
    if dtype == "auto":
        dtype = "float16" if device.startswith("cuda") else "float32"
    facts = [found, config.task, config.max_new_tokens, dtype]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return f"florence-{digest[:16]}-{preprocessing}-{CAPTION_FORMAT}"


class OutputStore:
    """The outputs of a tagger, and of a captioner if there is one.

    Args:
        folder: Of the cache; none keeps nothing.
        keys: The models' names there, by ``wd`` and ``florence``.
    """

    def __init__(self, folder: str | Path | None, keys: dict[str, str]) -> None:
        self._caches: dict[str, ResultCache] = {}
        if folder is not None:
            self._caches = {name: ResultCache(Path(folder) / key) for name, key in keys.items()}

    def missing(self, sha256: str, names: Sequence[str]) -> tuple[str, ...]:
        """Return those of some models that have to see a picture."""
        return tuple(
            name
            for name in names
            if not (sha256 and name in self._caches and sha256 in self._caches[name])
        )

    def scores(self, sha256: str) -> ScoreOutput | None:
        """Return what the tagger gave for a picture."""
        return self._get("wd", ScoreOutput, sha256)

    def caption(self, sha256: str) -> CaptionOutput | None:
        """Return what the captioner gave for a picture."""
        return self._get("florence", CaptionOutput, sha256)

    def _get(self, name: str, kind: type[Output], sha256: str) -> Output | None:
        data = self._caches[name].get(sha256) if name in self._caches else None
        return None if data is None else kind.unpack(data)

    def keep(self, sha256: str, output: ScoreOutput | CaptionOutput) -> None:
        """Store an output, unless another run might give a better one."""
        name = "wd" if isinstance(output, ScoreOutput) else "florence"
        if name in self._caches and (isinstance(output, ScoreOutput) or output.lasting):
            self._caches[name].put(sha256, output.pack())

    def close(self) -> None:
        """Release the folders."""
        for cache in self._caches.values():
            cache.close()
