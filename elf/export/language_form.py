"""A language model with the adapter in its weights, as a folder that transformers loads.

W' is made in float32 and rounded once. A base that was quantised in training is taken as training
had it: each linear layer as its codes decode, adapted or not.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from elf.adapters.factored import frozen_weight
from elf.dtypes import DType
from elf.errors import ElfError
from elf.export.tensors import DTYPES
from elf.export.trained import Trained
from elf.language.base import LanguageBase
from elf.language.transposed import MARK, transpose_again
from elf.quantized import Kind, QuantizedLinear, quantize


def write_merged_language(
    trained: Trained,
    base: str,
    output: Path,
    dtype: DType = "float16",
    verify: bool = True,
) -> Path:
    """Write the base with the adapter in its weights.

    Args:
        trained: The adapter.
        base: Of its training.
        output: A new folder.
        dtype: Of the weights.
        verify: Load what was written, and compare its weights.

    Returns:
        The folder.

    Raises:
        ElfError: If the base is not that of the training, the folder is there already, or what was
            written is not what was trained.
    """
    if output.exists():
        raise ElfError(f"output: {output} is there already; name a new one")
    language = LanguageBase(base)
    trained.refuse_other_language(language.fingerprint, language.name)
    model: Any = language.network(torch.float32)
    quantization: Kind | None = trained.base_options.get("quantization")
    if quantization is not None:  # what the adapter was trained beside
        quantize(model, quantization, skip=[model.get_output_embeddings()])
        _decode(model)
    _merge(model, trained, language.name)
    transpose_again(model)
    temporary = output.with_name(f".{output.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.to(DTYPES[dtype]).save_pretrained(temporary)
        language.tokenizer.save_pretrained(temporary)
        if verify:
            read = LanguageBase(str(temporary)).network(DTYPES[dtype])
            transpose_again(read)
            print(_verified(model, read, output))
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"wrote {output}")
    return output


def _decode(model: nn.Module) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedLinear):
            with torch.device("meta"):
                plain = nn.Linear(module.in_features, module.out_features, bias=False)
            plain.weight = nn.Parameter(module.dequantized(), requires_grad=False)
            plain.bias = module.bias
            if hasattr(module, MARK):
                setattr(plain, MARK, True)
            model.set_submodule(name, plain)


@torch.no_grad()
def _merge(model: nn.Module, trained: Trained, name: str) -> None:
    modules = dict(model.named_modules())
    for layer in trained.layers:
        module = modules.get(layer.name)
        if module is None:
            raise ElfError(f"base: {name} has no layer {layer.name}")
        weight = frozen_weight(module)
        if (len(layer.b), layer.a.shape[1]) != tuple(weight.shape):
            raise ElfError(
                f"base: {layer.name} of {name} has the shape {tuple(weight.shape)}, the adapter's "
                f"is ({len(layer.b)}, {layer.a.shape[1]}); name the base of its run"
            )
        weight.copy_(layer.changed(weight))


def _verified(written: nn.Module, read: nn.Module, output: Path) -> str:
    """Compare each tensor of a model with what its folder holds."""
    found = read.state_dict()
    for name, tensor in written.state_dict().items():
        if name not in found or not torch.equal(found[name], tensor):
            raise ElfError(f"verify: {name} of {output} is not what was merged")
    return f"verified: {len(found)} tensors, as they were merged"
