"""Adapters in diffusers' file: what its own loader makes of them, and what Elf reads back."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from elf import adapters
from elf.adapters import AdapterConfig, AdapterGroup
from elf.errors import ElfError
from elf.export import FILE_NAME, export_diffusers, read_adapter

Fill = Callable[[nn.Module], None]
Predict = Callable[[nn.Module], torch.Tensor]
PARTS: tuple[adapters.Part, ...] = ("unet", "text_encoder", "text_encoder_2")
GROUPS = [
    AdapterGroup("to_q", rank=2),
    AdapterGroup("unet.mid_block.*", rank=6, alpha=5),
    AdapterGroup("text_encoder_2.*.fc1", rank=2, alpha=1),
]
CONFIGS = {
    "lora": AdapterConfig(rank=4, alpha=3),
    "dora": AdapterConfig("dora", rank=4, alpha=3, dropout=0.5),
    "rslora": AdapterConfig(rank=4, alpha=3, rslora=True),
    "pissa": AdapterConfig("dora", rank=4, alpha=3, rslora=True, init="pissa"),
}


@pytest.fixture
def networks(pipeline: Any) -> dict[adapters.Part, nn.Module]:
    """Networks as in SDXL, whose second text encoder has a projection and names of its own."""
    from transformers import CLIPTextModelWithProjection

    torch.manual_seed(1)
    second = CLIPTextModelWithProjection(pipeline.text_encoder.config)
    return {
        "unet": pipeline.unet.eval(),
        "text_encoder": pipeline.text_encoder.eval(),
        "text_encoder_2": second.eval(),
    }


def checkpoint(
    networks: dict[adapters.Part, nn.Module], config: AdapterConfig, folder: Path
) -> Path:
    """A checkpoint as a run writes it."""
    state = {
        f"{part}.{key}": tensor
        for part, network in networks.items()
        for key, tensor in adapters.adapter_state(network).items()
    }
    path = folder / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    known = {"adapter": adapters.describe(config), "base_options": {}, "base_sha256": "0" * 64}
    torch.save({"state_dict": state, "elf": known}, path)
    return path


def grouped(name: str) -> AdapterConfig:
    config = copy.deepcopy(CONFIGS[name])
    config.groups, config.text_targets = GROUPS, "attention+feedforward"
    return config


@pytest.mark.parametrize("name", CONFIGS)
def test_a_pipeline_that_loads_the_file_has_the_trained_networks(
    name: str,
    networks: dict[adapters.Part, nn.Module],
    fill: Fill,
    predict: Predict,
    tmp_path: Path,
) -> None:
    """UNet and both text encoders, DoRA's magnitudes, ranks and alphas of groups included."""
    from diffusers import StableDiffusionXLPipeline

    config, fresh = grouped(name), copy.deepcopy(networks)
    adapters.inject_all(networks, config)
    for network in networks.values():
        fill(network)
    path = checkpoint(networks, config, tmp_path)
    file = export_diffusers(path, tmp_path / "out", "float32")
    state, metadata = StableDiffusionXLPipeline.lora_state_dict(
        str(file.parent), weight_name=FILE_NAME, return_lora_metadata=True
    )[::2]
    StableDiffusionXLPipeline.load_lora_into_unet(state, None, fresh["unet"], metadata=metadata)
    for part in PARTS[1:]:
        StableDiffusionXLPipeline.load_lora_into_text_encoder(
            state, None, fresh[part], prefix=part, metadata=metadata
        )
    read, tensors = read_adapter(file)
    for part in PARTS:
        expected = predict(networks[part])
        assert (expected - predict(strengthless(networks[part]))).abs().max() > 1e-2
        torch.testing.assert_close(predict(fresh[part]), expected, rtol=1e-4, atol=1e-5)
    assert read.kind == config.kind
    assert adapters.by_part(tensors).keys() == networks.keys()


def strengthless(network: nn.Module) -> nn.Module:
    network = copy.deepcopy(network)
    adapters.set_enabled(network, False)
    return network


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_read_back_is_the_trained_network(
    name: str,
    networks: dict[adapters.Part, nn.Module],
    fill: Fill,
    predict: Predict,
    tmp_path: Path,
) -> None:
    config, fresh = grouped(name), copy.deepcopy(networks)
    adapters.inject_all(networks, config)
    for network in networks.values():
        fill(network)
    path = checkpoint(networks, config, tmp_path)
    for source in (path, export_diffusers(path, tmp_path / "out", "float32")):
        read, tensors = read_adapter(source)
        assert read.rslora == config.rslora
        others = copy.deepcopy(fresh)
        adapters.inject_all(others, read)
        for part, state in adapters.by_part(tensors).items():
            adapters.load_adapter_state(others[part], state)
            torch.testing.assert_close(
                predict(others[part]), predict(networks[part]), rtol=1e-4, atol=1e-5
            )


def test_pissa_survives_16_bit(
    networks: dict[adapters.Part, nn.Module], predict: Predict, tmp_path: Path
) -> None:
    """A small change of large A and B is written as such, not as a difference of products."""
    unet, fresh = networks["unet"], copy.deepcopy(networks["unet"])
    config = AdapterConfig(rank=8, init="pissa")
    adapters.inject(unet, config)
    for key, tensor in adapters.adapter_state(unet).items():
        if "initial" not in key:
            tensor.add_(1e-4 * torch.randn_like(tensor))
    file = export_diffusers(checkpoint({"unet": unet}, config, tmp_path), tmp_path / "x", "float16")
    read, tensors = read_adapter(file)
    adapters.inject(fresh, read)
    adapters.load_adapter_state(fresh, adapters.by_part(tensors)["unet"])
    for mine, its in zip(adapters.layers(unet), adapters.layers(fresh), strict=True):
        change = adapters.delta_weight(mine)
        assert (adapters.delta_weight(its) - change).norm() < 2e-3 * change.norm()


def test_the_magnitudes_of_text_encoders_are_lost_under_the_name_that_diffusers_writes(
    networks: dict[adapters.Part, nn.Module],
    fill: Fill,
    predict: Predict,
    tmp_path: Path,
) -> None:
    """Why ``file_key`` keeps the ``.weight``."""
    from diffusers import StableDiffusionPipeline

    encoder, fresh = networks["text_encoder"], copy.deepcopy(networks["text_encoder"])
    config = AdapterConfig("dora", 4, text_targets="attention")
    adapters.inject(encoder, config, "text_encoder")
    fill(encoder)
    state = adapters.adapter_state(encoder)
    header = adapters.metadata(config, state, "text_encoder")
    short = {
        key.removesuffix(".weight") if "magnitude" in key else key: tensor
        for key, tensor in state.items()
    }
    StableDiffusionPipeline.load_lora_into_text_encoder(
        {f"text_encoder.{key}": tensor for key, tensor in short.items()},
        None,
        fresh,
        prefix="text_encoder",
        metadata={f"text_encoder.{key}": value for key, value in header.items()},
    )
    assert (predict(fresh) - predict(encoder)).abs().max() > 1e-2


def test_the_input_axis_has_no_form_in_others_files(
    networks: dict[adapters.Part, nn.Module], fill: Fill, tmp_path: Path
) -> None:
    """Magnitudes of a square layer would fit: it would load, and be another network."""
    config = AdapterConfig("dora", 4, axis="input")
    adapters.inject(networks["unet"], config)
    fill(networks["unet"])
    path = checkpoint({"unet": networks["unet"]}, config, tmp_path)
    message = "scales the columns of W, for which peft's and diffusers' files have no form; train"
    with pytest.raises(ElfError, match=re.escape(message)):
        export_diffusers(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    read, tensors = read_adapter(path)
    assert read == config
    assert adapters.by_part(tensors).keys() == {"unet"}


@pytest.mark.parametrize("init", ["kaiming", "orthogonal", "pissa", "olora"])
def test_an_adapter_that_was_not_trained_changes_nothing(
    networks: dict[adapters.Part, nn.Module], init: str, tmp_path: Path
) -> None:
    config = AdapterConfig(rank=4, init=init)
    adapters.inject(networks["unet"], config)
    path = checkpoint({"unet": networks["unet"]}, config, tmp_path)
    with pytest.raises(ElfError, match=r"the adapter changes nothing \(ΔW = 0\); train it first"):
        export_diffusers(path, tmp_path / "out")


def test_one_layer_may_have_the_end_of_anothers_name(tmp_path: Path) -> None:
    """peft takes a name for the end of longer ones; diffusers has such networks (proj_out)."""
    network = nn.ModuleDict({"a": nn.ModuleDict({"b": nn.Linear(4, 4)}), "b": nn.Linear(4, 4)})
    config = AdapterConfig(rank=2, targets=["re:b", "re:a.b"], groups=[AdapterGroup("re:b", 1)])
    record = adapters.inject(network, config)
    assert {name: value.rank for name, value in record.values.items()} == {"a.b": 2, "b": 1}
    assert [len(layer.lora_A["default"].weight) for layer in adapters.layers(network)] == [2, 1]
    alone = nn.ModuleDict({"a": nn.ModuleDict({"b": nn.Linear(4, 4)}), "b": nn.Linear(4, 4)})
    assert adapters.inject(alone, AdapterConfig(rank=2, targets=["re:b"])).modules == 1
    assert len(adapters.layers(alone)) == 1


def test_a_header_is_what_peft_itself_reads(
    networks: dict[adapters.Part, nn.Module], fill: Fill, tmp_path: Path
) -> None:
    from peft import LoraConfig

    config = AdapterConfig("dora", 4, 3, dropout=0.5, groups=[AdapterGroup("to_q", 2)])
    adapters.inject(networks["unet"], config)
    fill(networks["unet"])
    file = export_diffusers(checkpoint({"unet": networks["unet"]}, config, tmp_path), tmp_path)
    with safe_open(file, "pt") as opened:
        header = json.loads(opened.metadata()["lora_adapter_metadata"])
    settings = LoraConfig(**{key.removeprefix("unet."): value for key, value in header.items()})
    assert (settings.r, settings.lora_alpha, settings.lora_dropout) == (4, 3, 0.0)
    assert set(settings.rank_pattern.values()) == {2}
