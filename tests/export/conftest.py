"""Runs of tiny bases whose adapters have values as if they had been trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from elf import adapters
from elf.adapters import AdapterConfig
from elf.modules import DiffusionModule

Weights = dict[str, torch.Tensor]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of tables of families and adapters, leave SDXL's but the DoRAs to the long column.

    SDXL has other names, which a DoRA of all layers has all of; the arithmetic is SD 1.5's.
    """
    for item in items:
        given = getattr(item, "callspec", None)
        if Path(__file__).parent in item.path.parents and given and "name" in given.params:
            one = "dora" in given.params["name"].lower()
            if given.params.get("family") == "sdxl" and not one:
                item.add_marker(pytest.mark.slow)


class Run(NamedTuple):
    """A run's folder, its base, and the weights of all its networks before and after."""

    folder: Path
    base: Path
    module: Any
    before: Weights
    after: Weights


@pytest.fixture
def run(
    tiny_models: dict[str, Path], tiny_sdxl: Path, tmp_path: Path
) -> Callable[[str, AdapterConfig], Run]:
    """Return a function that makes a run of a family."""

    def make(family: str, config: AdapterConfig) -> Run:
        base = tiny_models["base"] if family == "sd15" else tiny_sdxl
        module = DiffusionModule(str(base), config)
        module.configure_model()
        before = weights(module)
        draw = torch.Generator().manual_seed(0)
        state = module.state_dict()
        for key, tensor in state.items():
            if ".lora_B." in key:
                tensor.normal_(0, 0.2, generator=draw)
            elif "magnitude" in key:
                tensor.mul_(1 + 0.2 * torch.rand(tensor.shape, generator=draw))
        module.load_state_dict({key: tensor.clone() for key, tensor in state.items()})
        content: dict[str, Any] = {"state_dict": module.state_dict()}
        module.on_save_checkpoint(content)
        folder = tmp_path / "wood_elf"
        (folder / "checkpoints").mkdir(parents=True)
        torch.save(content, folder / "checkpoints" / "last.ckpt")
        (folder / "config.yaml").write_text(f"model: {{init_args: {{base: {base}}}}}")
        return Run(folder, base, module, before, merged(module))

    return make


def weights(module: Any) -> Weights:
    """The frozen weights of all adapted layers, by their names in the pipeline."""
    return {
        f"{part}.{adapters.file_key(name)}": adapters.base_weight(layer).clone()
        for part, network in module.denoiser.parts.items()
        for name, layer in named(network)
    }


def merged(module: Any) -> Weights:
    """W' of the same, as training has it."""
    return {
        f"{part}.{adapters.file_key(name)}": adapters.base_weight(layer)
        + adapters.delta_weight(layer)
        for part, network in module.denoiser.parts.items()
        for name, layer in named(network)
    }


def named(network: torch.nn.Module) -> list[tuple[str, Any]]:
    own = set(map(id, adapters.layers(network)))
    return [(name, module) for name, module in network.named_modules() if id(module) in own]
