"""The base with the adapter in its weights, for any program, in the base's own layout.

W' is made in float32 and rounded once, at the end. What was not trained stays as it is, byte for
byte. Tensors go from file to file one after another: a base that does not fit into memory is merged
like any other.
"""

import functools
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elf.bases.header import Header
from elf.bases.ldm import Place
from elf.bases.stored import read_tensor
from elf.bases.weights import VARIANTS, Weights, read_json
from elf.dtypes import DType
from elf.errors import ElfError
from elf.export.basis import Basis
from elf.export.tensors import DTYPES
from elf.export.trained import Layer
from elf.export.writing import Entry, tensor_bytes, write_entries
from elf.files import atomic_path

WEIGHTS = (
    "*.safetensors",
    "*.bin",
    "*.msgpack",
    "*.h5",
    "*.ckpt",
    "*.index.json",
    "*.index.*.json",
)
"""Of a network in a folder, and of whole bases beside the networks' folders."""
NAMES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
HASHES = ("modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")
"""What a file may say of itself that is not so any more."""
Changes = Mapping[str, list[tuple[Place, Layer]]]


def export_merged(layers: list[Layer], basis: Basis, output: Path, dtype: DType) -> Path:
    """Write the base with W' in place of W.

    Args:
        layers: The adapter.
        basis: Its base.
        output: A ``.safetensors`` file if the base is one, else a new folder.
        dtype: Of the weights of networks that are adapted; in a file each keeps its own.

    Returns:
        What was written.

    Raises:
        ElfError: If the base has no such layer, a value overflows, or the output is there or of the
            other kind.
    """
    single = basis.stored.single
    if single != (output.suffix == ".safetensors"):
        kind = "a .safetensors file" if single else "a folder"
        raise ElfError(f"output: {basis.base.name} is {kind}, so what is merged is one; name one")
    if output.exists():
        raise ElfError(f"output: {output} is there already; name a new one")
    changes: dict[Path, dict[str, list[tuple[Place, Layer]]]] = {}
    for layer in layers:
        path, place = basis.place(layer)
        changes.setdefault(path, {}).setdefault(place.key, []).append((place, layer))
    if single:
        with atomic_path(output) as temporary:
            _write(basis, basis.base.where, temporary, changes[basis.base.where], None)
    else:
        _write_folder({layer.part for layer in layers}, basis, output, changes, dtype)
    return output


def _write_folder(
    parts: Iterable[str], basis: Basis, output: Path, changes: Mapping[Path, Changes], dtype: DType
) -> None:
    source = basis.base.where
    temporary = output.with_name(f".{output.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    skip = shutil.ignore_patterns(*WEIGHTS)
    without = {source, *(source / part for part in parts)}
    try:
        shutil.copytree(
            source,
            temporary,
            ignore=lambda place, names: (
                skip(place, names) if Path(place) in without else set[str]()
            ),
        )
        for folder in temporary.iterdir():
            _rename_variant(folder)
        for part in parts:
            weights, folder = basis.stored.weights(part), temporary / part
            for path in weights.files:
                target = folder / _without_variant(path.name)
                _write(basis, path, target, changes.get(path, {}), dtype)
            _write_index(weights, folder)
            _say_dtype(folder / "config.json", dtype)
        temporary.rename(output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write(basis: Basis, source: Path, target: Path, changes: Changes, dtype: DType | None) -> None:
    """Write one file with its layers' weights changed, and in another type if one is given."""
    header = basis.stored.header(source)
    entries = {name: _entry(basis, header, name, changes, dtype) for name in header.in_order()}
    kept = {key: value for key, value in header.metadata.items() if key not in HASHES}
    write_entries(target, entries, kept or {"format": "pt"})


def _entry(basis: Basis, header: Header, name: str, changes: Changes, dtype: DType | None) -> Entry:
    own, shape = header.dtype(name), header.shapes[name]
    floating = own.startswith(("F", "BF"))
    wanted = NAMES[dtype] if dtype is not None and floating else own
    if name not in changes and wanted == own:
        return Entry(own, shape, header.length(name), functools.partial(header.pieces, name))
    kind = DTYPES[dtype] if dtype is not None and wanted != own else None
    length = header.length(name) if kind is None else prod(shape) * kind.itemsize

    def pieces() -> Iterable[memoryview]:
        tensor = read_tensor(header.path, name)
        rounded = kind or tensor.dtype
        for place, layer in changes.get(name, []):
            tensor = _put(tensor, place, layer.changed(basis.weight(layer)))
        yield tensor_bytes(_rounded(name, tensor, rounded, dtype))

    return Entry(wanted, shape, length, pieces)


def _put(whole: Tensor, place: Place, changed: Tensor) -> Tensor:
    """Return a tensor of the file with a layer's weight in its place, in float32."""
    value = changed.T if place.transposed else changed
    if place.third is None:
        return value.reshape(whole.shape)
    whole = whole.to(torch.float32, copy=True)
    rows = len(whole) // 3
    whole[place.third * rows : (place.third + 1) * rows] = value
    return whole


def _rounded(name: str, tensor: Tensor, dtype: torch.dtype, asked: DType | None) -> Tensor:
    rounded = tensor.to(dtype)
    if not torch.isfinite(rounded.float()).all():
        way = (
            "merge into a base of a wider type" if asked is None else "export with --dtype float32"
        )
        raise ElfError(f"{name} overflows in {dtype}; {way}")
    return rounded


def _without_variant(name: str) -> str:
    """Return what a file of weights is called where there is one variant alone."""
    variants = "|".join(variant for variant in VARIANTS if variant is not None)
    return re.sub(rf"\.({variants})(?=[.-])", "", name)


def _rename_variant(folder: Path) -> None:
    """Let a network that has a variant alone have it under the plain name.

    Else no loader would find all networks: what was merged has a plain name.
    """
    files = [*folder.glob("*.safetensors"), *folder.glob("*.index*.json")]
    if not files or any(path.name == _without_variant(path.name) for path in files):
        return
    for path in files:
        target = path.with_name(_without_variant(path.name))
        if path.suffix == ".json":
            target.write_text(json.dumps(_index(path), indent=2) + "\n", encoding="utf-8")
            path.unlink()
        else:
            path.rename(target)


def _index(path: Path) -> dict[str, Any]:
    """Return what an index says, of files without a variant."""
    found = read_json(path)
    names = {key: _without_variant(name) for key, name in found["weight_map"].items()}
    return {**found, "weight_map": names}


def _write_index(weights: Weights, folder: Path) -> None:
    if weights.index is None:
        return
    index = _index(weights.index)
    headers = [Header.read(folder / name) for name in set(index["weight_map"].values())]
    total = sum(header.length(name) for header in headers for name in header.shapes)
    index["metadata"] = {**index.get("metadata", {}), "total_size": total}
    file = folder / _without_variant(weights.index.name)
    file.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _say_dtype(config: Path, dtype: DType) -> None:
    """Let a configuration that names the type of its weights name the one that they have."""
    found = read_json(config)
    stated = {key: dtype for key in ("dtype", "torch_dtype") if key in found}
    if stated:
        config.write_text(json.dumps(found | stated, indent=2) + "\n", encoding="utf-8")
