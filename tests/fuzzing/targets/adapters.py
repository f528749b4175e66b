"""Adapters that others wrote, in the forms of diffusers, kohya and peft; and checkpoints."""

import functools
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from oracle import Check, refused
from safetensors.torch import save, save_file
from spoiling import spoil, spoiled_json

from elf import adapters
from elf.adapters import AdapterConfig
from elf.bases import open_base
from elf.export import importing, reading
from elf.export.command import export_kohya
from elf.export.diffusers_form import export_diffusers
from elf.export.trained import read_trained
from elf.modules import DiffusionModule

from . import join, split

READ_BY = ("safetensors",)
LONGEST = 1 << 15
WORDS = (
    *(
        b"F16",
        b"F32",
        b"BF16",
        b"I64",
        b"BOOL",
        b"F8_E4M3",
        b'"dtype"',
        b'"shape"',
        b"__metadata__",
    ),
    *(b'"data_offsets"', b".lora_A.weight", b".lora_B.weight", b".lora_up.weight", b".alpha"),
    *(b".dora_scale", b".lora_magnitude_vector", b"lora_unet_", b"lora_te_", b"unet.", b"_mid."),
    *(b'"r": ', b'"lora_alpha": ', b'"rank_pattern": ', b'"target_modules": ', b".*", b"null"),
)
ROOT = Path(__file__).parents[3]
BASE = ROOT / "models" / "tiny" / "base"
FILES = ("raw", "header", "peft", "adapter_config", "checkpoint", "pickle")
"""What an input may be: a file; the header of one whose tensors are zeros; peft's file or its
configuration; the values of a checkpoint; a checkpoint's bytes."""
TARGETS: Any = ["*.attn2.to_q", "conv_shortcut"]


def run(folder: Path) -> Path:
    """Write a run whose adapter has values as if something had been learnt."""
    module = DiffusionModule(str(BASE), AdapterConfig(rank=2, alpha=3, targets=TARGETS))
    module.configure_model()
    for key, tensor in module.state_dict().items():
        if ".lora_B." in key:
            tensor.fill_(0.1)
    content: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / "checkpoints" / "last.ckpt")
    (folder / "config.yaml").write_text(f"model: {{init_args: {{base: {BASE}}}}}")
    return folder


def header_of(data: bytes) -> bytes:
    """Return a safetensors file's header as it stands there."""
    return data[8 : 8 + int.from_bytes(data[:8], "little")]


def seeds(folder: Path) -> Iterator[bytes]:
    """Yield whole adapters in every form."""
    made = run(folder / "run")
    diffusers = export_diffusers(made, folder / "diffusers", "float32").read_bytes()
    kohya = export_kohya(read_trained(made), str(BASE), folder / "kohya", "float32")
    assert kohya is not None
    for data in (diffusers, kohya.read_bytes()):
        yield join(0, data)
        yield join(1, header_of(data))
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{name}.lora_A.weight": torch.ones(2, 8), f"{name}.lora_B.weight": torch.ones(8, 2)}
    yield join(2, header_of(save(tensors)))
    said = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "peft_type": "LORA"}
    yield join(3, json.dumps(said | {"rank_pattern": {}, "use_dora": False}).encode())
    checkpoint = torch.load(made / "checkpoints" / "last.ckpt", weights_only=True)
    yield join(4, json.dumps(checkpoint["elf"]).encode())
    buffer = io.BytesIO()
    torch.save({"elf": checkpoint["elf"], "state_dict": {}}, buffer)
    yield join(5, buffer.getvalue())


def mutate(data: bytes, draw: random.Random) -> bytes:
    """Spoil a value of the header, or the JSON within it."""
    kind, text = split(data, len(FILES))
    if FILES[kind] == "raw" and len(text) > 8:
        head = header_of(text)
        other = spoiled_json(head, draw)
        return data[:1] + len(other).to_bytes(8, "little") + other + text[8 + len(head) :]
    try:
        value = json.loads(text)
        about = value["__metadata__"]
        key = draw.choice([key for key, each in about.items() if str(each).startswith("{")])
        about[key] = json.dumps(spoil(json.loads(about[key]), draw))
    except (ValueError, LookupError, TypeError, RecursionError, AttributeError):
        return data[:1] + spoiled_json(text, draw)
    return data[:1] + (
        json.dumps(value).encode() if draw.random() < 0.5 else spoiled_json(text, draw)
    )


def with_zeros(header: bytes) -> bytes:
    """Return a file of a header whose tensors are zeros, as many as it says if they are few."""
    most = 0
    try:
        for each in json.loads(header).values():
            most = max(most, int(each.get("data_offsets", [0, 0])[1]))
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError):
        most = 0
    return len(header).to_bytes(8, "little") + header + bytes(min(most, 1 << 20))


def write(folder: Path, kind: str, data: bytes) -> Path:
    """Write an input as what it stands for; return what is to be read."""
    if kind in ("checkpoint", "pickle"):
        path = folder / "fuzzed.ckpt"
        path.write_bytes(data)
        if kind == "checkpoint":
            try:
                value = json.loads(data)
            except (ValueError, RecursionError):
                return path
            torch.save({"elf": value, "state_dict": {"unet.a.lora_A.weight": torch.ones(1)}}, path)
        return path
    if kind in ("peft", "adapter_config"):
        inner = folder / "peft"
        inner.mkdir(exist_ok=True)
        name = "base_model.model.model.layers.0.self_attn.q_proj"
        whole = {
            f"{name}.lora_A.weight": torch.ones(2, 8),
            f"{name}.lora_B.weight": torch.ones(8, 2),
        }
        save_file(whole, inner / "adapter_model.safetensors")
        config = data
        if kind == "peft":
            (inner / "adapter_model.safetensors").write_bytes(with_zeros(data))
            config = b'{"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}'
        (inner / "adapter_config.json").write_bytes(config)
        return inner
    path = folder / "fuzzed.safetensors"
    path.write_bytes(with_zeros(data) if kind == "header" else data)
    return path


def hurry() -> None:
    """Look at the base once."""
    reading.open_base = functools.cache(open_base)
    importing.layer_names = functools.cache(importing.layer_names)


def target(folder: Path) -> Check:
    """Return the check of an adapter."""
    unet = open_base(str(BASE)).unet(torch.float32)

    def check(data: bytes) -> None:
        kind, text = split(data, len(FILES))
        path = write(folder, FILES[kind], text)
        with refused():
            if FILES[kind] in ("raw", "header"):
                trained = read_trained(path, str(BASE))
                states = adapters.by_part(trained.state)
                if list(states) == ["unet"]:
                    try:
                        adapters.inject_all({"unet": unet}, trained.config)
                        adapters.load_adapter_state(unet, states["unet"])
                    finally:
                        adapters.remove(unet)
            else:
                reading.read_adapter(path)
        with refused():
            reading.read_origin(path)

    return check
