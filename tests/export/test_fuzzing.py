"""Damaged adapter files are read as one that fits their base, or refused in a line."""

import copy
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elf import adapters
from elf.adapters import AdapterConfig, Part
from elf.bases import open_base
from elf.errors import ElfError
from elf.export import export_diffusers, importing, reading
from elf.export.command import export_kohya
from elf.export.trained import Trained, read_trained

TARGETS: Any = ["*.attn2.to_q", "conv_shortcut"]
FORMS = {
    "diffusers, lora": AdapterConfig(rank=2, alpha=3, targets=TARGETS, text_targets=["q_proj"]),
    "diffusers, dora": AdapterConfig("dora", rank=2, alpha=3, targets=TARGETS),
    "kohya, lora": AdapterConfig(rank=2, alpha=3, targets=TARGETS, text_targets=["q_proj"]),
    "kohya, dora": AdapterConfig("dora", rank=2, alpha=3, targets=TARGETS, axis="input"),
}
NASTY: list[Any] = [
    *(None, True, -1, 0, 1, 7, 2**31, 2**63, 2**64, 10**400, 1.5, 1e308, float("nan")),
    *("", "a", "lora_A", "\\", "(", ".*", "F16", "F32", "I64", "BOOL", "F8_E4M3", "nothing"),
    *([], [0], [-1], [2, 2], [1 << 40, 1 << 40], [1.5], ["a"], [[1]], [0, 0], [8, 4], {}, {"a": 1}),
]
EACH = 6
"""How many of a kind's damages there are for each that is put into the networks, if it is read."""
Random, Make = np.random.Generator, Callable[[str, AdapterConfig], Any]


def one_of(random: Random, values: Any) -> Any:
    return values[int(random.integers(len(values)))]


def packed(header: Any, data: bytes, pairs: str = "") -> bytes:
    """A file of a header, to whose text pairs can be added that its value cannot hold."""
    text = json.dumps(header)
    text = text[:-1] + "," + pairs + "}" if pairs else text
    return len(text.encode()).to_bytes(8, "little") + text.encode() + data


def spoil(random: Random, value: Any) -> Any:
    """Replace, remove or rename something in a JSON value, at any depth."""
    if not isinstance(value, dict | list) or not value or random.random() < 0.15:
        return one_of(random, NASTY)
    place = one_of(random, list(value) if isinstance(value, dict) else range(len(value)))
    what = random.random()
    if what < 0.15:
        del value[place]
    elif what < 0.3 and isinstance(value, dict):
        value[one_of(random, [*value, "a", "", place + ".a", place[:-1]])] = value.pop(place)
    else:
        value[place] = spoil(random, value[place])
    return value


def header_bytes(random: Random, whole: bytes, header: Any, data: bytes) -> bytes:
    changed = bytearray(whole)
    for place in random.integers(0, len(whole) - len(data), 3):
        changed[place] = random.integers(256)
    return bytes(changed)


def length(random: Random, whole: bytes, header: Any, data: bytes) -> bytes:
    own = int.from_bytes(whole[:8], "little")
    other = one_of(random, [0, 1, own - 1, own + 1, own * 2, len(whole), 2**31, 2**63, 2**64 - 1])
    return int(other).to_bytes(8, "little") + whole[8:]


def cut(random: Random, whole: bytes, header: Any, data: bytes) -> bytes:
    if random.random() < 0.2:
        return whole + random.bytes(int(random.integers(1, 100)))
    return whole[: random.integers(len(whole))]


def values(random: Random, whole: bytes, header: Any, data: bytes) -> bytes:
    changed = bytearray(whole)
    for place in random.integers(len(whole) - len(data), len(whole), 5):
        changed[place] = one_of(random, [0, 127, 128, 255, int(random.integers(256))])
    return bytes(changed)


def structure(random: Random, whole: bytes, header: Any, data: bytes) -> bytes:
    return packed(spoil(random, copy.deepcopy(header)), data)


def offsets(random: Random, whole: bytes, header: Any, data: bytes) -> bytes:
    """Two tensors in one place, none, or each other's; of other types and shapes."""
    header = copy.deepcopy(header)
    names = [name for name in header if name != "__metadata__"]
    first, second = header[one_of(random, names)], header[one_of(random, names)]
    key = one_of(random, ["data_offsets", "shape", "dtype"])
    first[key], second[key] = second[key], one_of(random, [first[key], second[key]])
    if random.random() < 0.3:
        first["data_offsets"] = [int(each) for each in random.integers(0, len(data) + 9, 2)]
    return packed(header, data)


def doubled(random: Random, whole: bytes, header: Any, data: bytes) -> bytes:
    """One name twice, which JSON allows."""
    name, other = one_of(random, list(header)), one_of(random, list(header))
    return packed(header, data, f"{json.dumps(name)}: {json.dumps(header[other])}")


def about(random: Random, whole: bytes, header: Any, data: bytes) -> bytes:
    """What the header says of the adapter, which is JSON in a string."""
    header = copy.deepcopy(header)
    told = header.get("__metadata__") or {}
    inside = [key for key, value in told.items() if value.startswith("{")]
    if not inside:
        return structure(random, whole, header, data)
    key = one_of(random, inside)
    text = json.dumps(spoil(random, json.loads(told[key])))
    if random.random() < 0.15:
        text = one_of(random, [text[:-2], "[" * 5000, "{" + text, "\ud800", "1" * 5000])
    told[key] = text
    return packed(header, data)


DAMAGES = (header_bytes, length, cut, values, structure, offsets, doubled, about)


@pytest.fixture
def file(form: str, run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A whole file and its base, which is looked at once."""
    made = run("sd15", FORMS[form])
    for module, name in ((reading, "open_base"), (importing, "layer_names")):
        monkeypatch.setattr(module, name, functools.cache(getattr(module, name)))
    if "diffusers" in form:
        return export_diffusers(made.folder, tmp_path, "float32"), str(made.base)
    found = export_kohya(read_trained(made.folder), str(made.base), tmp_path, "float32")
    assert found is not None
    return found, str(made.base)


def networks_of(base: str) -> dict[Part, Any]:
    opened = open_base(base)
    encoder = opened.text_encoder("text_encoder", torch.float32)
    return {"unet": opened.unet(torch.float32), "text_encoder": encoder}


def load(networks: Mapping[Part, Any], trained: Trained) -> None:
    """Put an adapter into its networks, as training and serving do, and take it out again."""
    states = adapters.by_part(trained.state)
    used = {part: networks[part] for part in states}
    try:
        adapters.inject_all(used, trained.config)
        for part, network in used.items():
            adapters.load_adapter_state(network, states[part])
    finally:
        for network in networks.values():
            adapters.remove(network)


@pytest.mark.fault(14)
@pytest.mark.parametrize(
    ("seed", "count"),
    [(0, 1_250)] + [pytest.param(seed, 12_500, marks=pytest.mark.slow) for seed in range(1, 11)],
)
@pytest.mark.parametrize("form", FORMS)
def test_they_are_read_or_refused(
    file: tuple[Path, str], seed: int, count: int, tmp_path: Path, figures: Any
) -> None:
    count = figures.part(count)
    path, base = file
    whole, random, refused = path.read_bytes(), np.random.default_rng(seed), 0
    end = 8 + int.from_bytes(whole[:8], "little")
    header, data = json.loads(whole[8:end]), whole[end:]
    networks, put_in = networks_of(base), 0
    bad = tmp_path / "bad.safetensors"
    for number in range(count):
        bad.write_bytes(DAMAGES[number % len(DAMAGES)](random, whole, header, data))
        try:
            trained = read_trained(bad, base)
            assert trained.layers
            if number // len(DAMAGES) % EACH == 0:
                put_in += 1
                load(networks, trained)
        except ElfError as error:
            assert "\n" not in str(error)
            refused += 1
        except Exception as error:
            raise AssertionError(f"damage {number}: {error!r}") from error
    assert refused > count // 3 and put_in > 0
    figures(files=count, other_errors=0)
