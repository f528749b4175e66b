"""The base with the adapter in its weights, for any program, in the base's own layout.

W' is made in float32 and rounded once, at the end. What was not trained stays as it is, byte for
byte.
"""

import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from elf.adapters.factored import frozen_weight
from elf.adapters.presets import canonical
from elf.bases.detect import old_names
from elf.bases.header import Header
from elf.bases.ldm import Place, places
from elf.errors import ElfError
from elf.export.basis import Basis
from elf.export.tensors import DTYPES, DType
from elf.export.trained import Layer
from elf.files import atomic_path

WEIGHTS = ("*.safetensors", "*.bin", "*.msgpack", "*.h5", "*.index.json")
"""Of a network in a folder."""


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
        ElfError: If the base has no such layer, or the output is there or of the other kind.
    """
    single = basis.base.where.suffix == ".safetensors"
    if single != (output.suffix == ".safetensors"):
        kind = "a .safetensors file" if single else "a folder"
        raise ElfError(f"output: {basis.base.name} is {kind}, so what is merged is one; name one")
    if output.exists():
        raise ElfError(f"output: {output} is there already; name a new one")
    if single:
        _write_single(layers, basis, output)
    else:
        _write_folder(layers, basis, output, dtype)
    return output


def _write_folder(layers: list[Layer], basis: Basis, output: Path, dtype: DType) -> None:
    parts = {layer.part for layer in layers}
    source = basis.base.where
    temporary = output.with_name(f".{output.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        skip = shutil.ignore_patterns(*WEIGHTS)
        shutil.copytree(
            source,
            temporary,
            ignore=lambda place, names: (
                skip(place, names) if Path(place).name in parts else set[str]()
            ),
        )
        for part in parts:
            network = basis.network(part)
            named = {canonical(name): module for name, module in network.named_modules()}
            for layer in (layer for layer in layers if layer.part == part):
                weight = _weight(named, layer, basis)
                weight.copy_(layer.changed(weight))
            nn.Module.to(network, DTYPES[dtype])  # diffusers' own warns of parts that are none
            network.save_pretrained(temporary / part)  # type: ignore[operator]
        temporary.rename(output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _weight(named: dict[str, nn.Module], layer: Layer, basis: Basis) -> Tensor:
    if layer.name not in named:
        raise ElfError(f"base: {basis.base.name} has no layer {layer.label}")
    return frozen_weight(named[layer.name]).data


def _write_single(layers: list[Layer], basis: Basis, output: Path) -> None:
    source = basis.base.where
    tensors = load_file(source)
    usual = {old_names(key): key for key in tensors}
    for layer in layers:
        name = f"{layer.name}.weight"
        config = basis.base.config(layer.part)
        place = places(basis.base.family, layer.part, [name], config)[name]
        if place.key not in usual:
            raise ElfError(f"base: {basis.base.name} has no layer {layer.label}")
        key = usual[place.key]
        changed = layer.changed(basis.weight(layer))
        tensors[key] = _put(tensors[key], place, changed)
    with atomic_path(output) as temporary:
        save_file(tensors, temporary, Header.read(source).metadata or {"format": "pt"})


def _put(whole: Tensor, place: Place, changed: Tensor) -> Tensor:
    """Return a tensor of the file with a layer's weight in its place."""
    value = changed.T if place.transposed else changed
    if place.third is None:
        return value.reshape(whole.shape).to(whole.dtype).contiguous()
    whole = whole.clone()
    rows = len(whole) // 3
    whole[place.third * rows : (place.third + 1) * rows] = value.to(whole.dtype)
    return whole
