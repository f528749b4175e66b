"""Layers' names in kohya's form, at full size: as many as its scripts train, and diffusers' own."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from torch import nn

from elf import adapters
from elf.adapters import AdapterConfig, Part
from elf.adapters.presets import canonical
from elf.bases.configs import CONFIGS
from elf.bases.families import FAMILIES, FamilyName
from elf.export.names import kohya_name

LINEAR, ALL = "attention+feedforward+projections", "attention+feedforward+convolutions"


def network(family: FamilyName, part: Part) -> nn.Module:
    import diffusers
    import transformers

    config = CONFIGS[family][part]
    with init_empty_weights(include_buffers=False):
        if part == "unet":
            made: nn.Module = diffusers.UNet2DConditionModel.from_config(config)
        else:
            cls = getattr(transformers, FAMILIES[family].text_encoders[part])
            made = cls(cls.config_class.from_dict(config))
    return made


def names(family: FamilyName, part: Part, targets: str) -> dict[str, str]:
    """The layers that a preset takes, by their names in kohya's form."""
    made = network(family, part)
    config = AdapterConfig(rank=1, text_targets="attention+feedforward")
    config.targets = targets  # type: ignore[assignment]
    record = adapters.inject(made, config, part)
    unet = CONFIGS[family]["unet"]
    found = {kohya_name(part, canonical(name), family, unet): name for name in record.values}
    assert len(found) == len(record.values), "two layers have one name"
    return found


@pytest.mark.parametrize(
    ("family", "targets", "count"),
    [("sd15", LINEAR, 192), ("sd15", ALL, 278), ("sdxl", LINEAR, 722), ("sdxl", ALL, 788)],
)
def test_as_many_layers_of_the_unet_as_kohya_trains(
    family: FamilyName, targets: str, count: int
) -> None:
    assert len(names(family, "unet", targets)) == count


@pytest.mark.parametrize(
    ("family", "part", "count", "example"),
    [
        ("sd15", "text_encoder", 72, "lora_te_text_model_encoder_layers_11_self_attn_q_proj"),
        ("sdxl", "text_encoder", 72, "lora_te1_text_model_encoder_layers_0_mlp_fc1"),
        ("sdxl", "text_encoder_2", 192, "lora_te2_text_model_encoder_layers_31_self_attn_out_proj"),
    ],
)
def test_as_many_layers_of_text_encoders(
    family: FamilyName, part: Part, count: int, example: str
) -> None:
    found = names(family, part, LINEAR)
    assert len(found) == count
    assert example in found


@pytest.mark.parametrize(
    ("family", "name", "expected"),
    [
        (
            "sd15",
            "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0",
            "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn2_to_out_0",
        ),
        ("sd15", "mid_block.resnets.1.conv1", "lora_unet_mid_block_resnets_1_conv1"),
        ("sdxl", "down_blocks.1.downsamplers.0.conv", "lora_unet_input_blocks_6_0_op"),
        ("sdxl", "up_blocks.1.upsamplers.0.conv", "lora_unet_output_blocks_5_2_conv"),
        ("sdxl", "mid_block.attentions.0.proj_in", "lora_unet_middle_block_1_proj_in"),
        (
            "sdxl",
            "up_blocks.0.attentions.2.transformer_blocks.9.ff.net.0.proj",
            "lora_unet_output_blocks_2_1_transformer_blocks_9_ff_net_0_proj",
        ),
        ("sdxl", "up_blocks.2.resnets.0.conv_shortcut",
         "lora_unet_output_blocks_6_0_skip_connection"),
        ("sdxl", "down_blocks.2.resnets.1.time_emb_proj",
         "lora_unet_input_blocks_8_0_emb_layers_1"),
    ],
)  # fmt: skip
def test_names_are_those_of_the_table(family: FamilyName, name: str, expected: str) -> None:
    assert kohya_name("unet", name, family, CONFIGS[family]["unet"]) == expected


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_diffusers_finds_each_layer_by_its_name(family: FamilyName) -> None:
    """What its loader makes of a file's keys, with its own table of SDXL's blocks."""
    from diffusers.loaders import lora_conversion_utils as others

    found = names(family, "unet", "attention")
    state: dict[str, Any] = {}
    for name in found:
        for end in ("lora_down.weight", "lora_up.weight", "alpha"):
            state[f"{name}.{end}"] = torch.ones(()) if end == "alpha" else torch.ones(1, 1)
    if family == "sdxl":
        layers = SimpleNamespace(layers_per_block=CONFIGS[family]["unet"]["layers_per_block"])
        state = others._maybe_map_sgm_blocks_to_diffusers(state, layers)
    converted, _ = others._convert_non_diffusers_lora_to_diffusers(state)
    ends = (".lora.down.weight", ".lora_A.weight", ".down.weight")
    theirs = set()
    for key in converted:
        for end in ends:
            if key.endswith(end):
                theirs.add(key.removeprefix("unet.").removesuffix(end))
    normal = {name.replace(".processor", "").replace("_lora", "") for name in theirs}
    assert {name.replace("to_out.0", "to_out") for name in found.values()} == {
        name.replace("to_out.0", "to_out") for name in normal
    }
