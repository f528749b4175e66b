"""Base models in one file, and the small files in a base's folder."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from oracle import Check, refused
from spoiling import spoiled_json

from elf.bases import open_base
from elf.tiny.singlefile import single_file

from . import join, split
from .adapters import BASE, header_of, with_zeros

LONGEST = 1 << 16
WORDS = (
    *(b"F16", b"F32", b'"dtype"', b'"shape"', b"__metadata__", b'"data_offsets"', b"v_pred"),
    *(b"model.diffusion_model.", b"first_stage_model.", b"cond_stage_model.transformer."),
    *(b"conditioner.embedders.1.model.", b"ztsnr", b"edm_mean", b"modelspec.prediction_type"),
    *(b"null", b"1e999", b"-1", b"NaN", b"[", b"]"),
)
SMALL = (
    *("model_index.json", "scheduler/scheduler_config.json", "unet/config.json"),
    "tokenizer/tokenizer_config.json",
)
FILES = ("raw", "header", *SMALL)


def seeds(folder: Path) -> Iterator[bytes]:
    """Yield the tiny base's header, and the small files of its folder."""
    base = open_base(str(BASE))
    whole = single_file(base.pipeline(base.unet(torch.float32)), "sd15", folder / "w.safetensors")
    header = header_of(whole.read_bytes())
    yield join(0, len(header).to_bytes(8, "little") + header)
    yield join(1, header)
    for kind, name in enumerate(FILES):
        if name in SMALL and (BASE / name).is_file():
            yield join(kind, (BASE / name).read_bytes())


def mutate(data: bytes, draw: random.Random) -> bytes:
    """Spoil a value."""
    kind, text = split(data, len(FILES))
    if kind:
        return data[:1] + spoiled_json(text, draw)
    other = spoiled_json(text[8:], draw)
    return data[:1] + len(other).to_bytes(8, "little") + other


def target(folder: Path) -> Check:
    """Return the check of a file."""
    used = folder / "base"
    shutil.rmtree(used, ignore_errors=True)
    shutil.copytree(BASE, used)
    file = folder / "base.safetensors"

    def check(data: bytes) -> None:
        kind, text = split(data, len(FILES))
        name = FILES[kind]
        if name in ("raw", "header"):
            file.write_bytes(with_zeros(text) if name == "header" else text)
            with refused():
                base = open_base(str(file))
                _ = base.fingerprint
            return
        (used / name).write_bytes(text)
        try:
            with refused():
                base = open_base(str(used))
                part = name.partition("/")[0]
                if part == "scheduler":
                    _ = base.noise_schedule
                elif part == "tokenizer":
                    base.tokenizer("text_encoder")
        finally:
            shutil.copy(BASE / name, used / name) if (BASE / name).exists() else None

    return check
