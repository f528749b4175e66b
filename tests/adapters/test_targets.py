"""Which layers a preset or a pattern names, against kohya's own rule, and what names nothing."""

import re

import pytest
from torch import nn

from elf import adapters
from elf.adapters import AdapterConfig, AdapterGroup
from elf.adapters.targets import layer_values, matches, target_names
from elf.errors import ElfError

# What kohya's scripts look for layers in: for LoRA, and with conv_dim besides.
KOHYA = {
    "attention+feedforward+projections": {"Transformer2DModel"},
    "attention+feedforward+convolutions": {
        *("Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D")
    },
}
KOHYA_TEXT = {"CLIPAttention", "CLIPMLP"}


def inside(network: nn.Module, classes: set[str]) -> set[str]:
    """Linear layers and convolutions in modules of some classes."""
    return {
        f"{outer}.{inner}"
        for outer, module in network.named_modules()
        if type(module).__name__ in classes
        for inner, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }


@pytest.mark.parametrize("preset", KOHYA)
def test_presets_of_the_unet_are_what_kohya_trains(unet: nn.Module, preset: str) -> None:
    names = target_names(unet, AdapterConfig(targets=preset), "unet")
    assert set(names) == inside(unet, KOHYA[preset])


def test_sdxl_has_the_same_names(unet: nn.Module) -> None:
    """Its projections are linear; its embeddings of sizes are left out."""
    values = {
        **unet.config,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 80,
        "transformer_layers_per_block": 2,
    }
    sdxl = type(unet).from_config(values)
    for preset, classes in KOHYA.items():
        names = target_names(sdxl, AdapterConfig(targets=preset), "unet")
        assert set(names) == inside(sdxl, classes)
        assert isinstance(sdxl.get_submodule(names[0].split(".attentions")[0]), nn.Module)


def test_the_preset_of_a_text_encoder_is_what_kohya_trains(text_encoder: nn.Module) -> None:
    config = AdapterConfig(text_targets="attention+feedforward")
    names = target_names(text_encoder, config, "text_encoder")
    assert set(names) == inside(text_encoder, KOHYA_TEXT)
    config = AdapterConfig(text_targets="attention")
    names = target_names(text_encoder, config, "text_encoder")
    assert set(names) == inside(text_encoder, {"CLIPAttention"})


@pytest.mark.parametrize("preset", ["attention", "attention+feedforward"])
def test_smaller_presets_are_parts_of_larger_ones(unet: nn.Module, preset: str) -> None:
    names = set(target_names(unet, AdapterConfig(targets=preset), "unet"))
    larger = AdapterConfig(targets="attention+feedforward+projections")
    assert names < set(target_names(unet, larger, "unet"))
    assert {name.rsplit(".", 1)[1] for name in names} >= {"to_q", "to_k", "to_v"}


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("to_q", "mid.attn1.to_q", True),
        ("to_q", "mid.attn1.add_to_q", False),
        ("attn1.to_q", "mid.attn1.to_q", True),
        ("to_q", "to_q", True),
        ("up_blocks.1.*.to_q", "up_blocks.1.attentions.0.attn1.to_q", True),
        ("up_blocks.1.*.to_q", "up_blocks.11.attentions.0.attn1.to_q", False),
        ("*.to_?", "mid.to_k", True),
        ("*.to_[kv]", "mid.to_q", False),
        (r"re:up_blocks\.[12]\..*to_[kv]", "up_blocks.2.attn.to_v", True),
        (r"re:up_blocks\.[12]\..*to_[kv]", "x.up_blocks.2.attn.to_v", False),
        ("re:to_q", "mid.to_q", False),
    ],
)
def test_patterns(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected


def test_patterns_are_added_up_and_take_only_what_can_carry_an_adapter(unet: nn.Module) -> None:
    names = target_names(unet, AdapterConfig(targets=["mid_block.*", "conv_in"]), "unet")
    layers = {n for n, m in unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert set(names) == {n for n in layers if n.startswith("mid_block.")} | {"conv_in"}


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            ["to_x"],
            "model.adapter.targets: no layer is named 'to_x'; did you mean to_v, to_q, to_k?",
        ),
        (
            ["to_q", "ff.net.1.proj"],
            "no layer is named 'ff.net.1.proj'; did you mean ff.net.0.proj",
        ),
        (["zzzzz"], "no layer is named 'zzzzz'; there are conv, conv1, conv2"),
        (["up_blocks.9.*"], "no layer is named 'up_blocks.9.*'; "),
        (["norm1"], "'norm1' matches only what can carry no adapter (down_blocks"),
        (["to_out"], "to_out: ModuleList); name linear layers or convolutions"),
        (
            ["re:(to_q"],
            "model.adapter: 're:(to_q' is no regular expression (missing ), unterminated",
        ),
        ([], "model.adapter.targets: the list is empty; name layers, or a preset: attention"),
    ],
)
def test_what_names_no_layer_is_refused(unet: nn.Module, targets: list[str], message: str) -> None:
    with pytest.raises(ElfError, match=re.escape(message)) as error:
        adapters.inject(unet, AdapterConfig(targets=targets))
    assert "\n" not in str(error.value)


def test_a_preset_that_a_network_has_nothing_of_is_refused() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Conv2d(4, 4, 1, groups=2))
    with pytest.raises(ElfError, match=r"Sequential has no layer of the preset attention; give"):
        adapters.inject(network, AdapterConfig())
    with pytest.raises(ElfError, match=r"can carry no adapter \(1: Conv2d with 2 groups\)"):
        adapters.inject(network, AdapterConfig(targets=["1"]))


def test_text_targets_are_named_in_their_own_errors(text_encoder: nn.Module) -> None:
    config = AdapterConfig(text_targets=["q_prj"])
    with pytest.raises(ElfError, match=r"model.adapter.text_targets: .* did you mean q_proj, "):
        adapters.inject(text_encoder, config, "text_encoder")


def test_the_first_group_that_fits_decides() -> None:
    config = AdapterConfig(
        rank=8,
        groups=[
            AdapterGroup("text_encoder.*", lr_scale=0.5),
            AdapterGroup("mid_block.*", rank=2),
            AdapterGroup("to_q", rank=4, alpha=1),
        ],
    )
    names = ["mid_block.to_q", "up.to_q", "up.to_k"]
    values = layer_values(config, names, "unet")
    assert [(v.rank, v.alpha, v.lr_scale) for v in values.values()] == [
        *((2, 2, 1.0), (4, 1, 1.0), (8, 8, 1.0))
    ]
    assert {v.lr_scale for v in layer_values(config, names, "text_encoder").values()} == {0.5}
    config.alpha = 3
    assert layer_values(config, names, "unet")["mid_block.to_q"].alpha == 3


def test_a_group_that_decides_nothing_is_refused(unet: nn.Module, text_encoder: nn.Module) -> None:
    both = AdapterConfig(text_targets="attention", groups=[AdapterGroup("q_proj", 2)])
    adapters.inject_all({"unet": unet, "text_encoder": text_encoder}, both)
    for group, targets in (("ff.net.2", None), ("text_encoder_2.*", "attention")):
        config = AdapterConfig(
            groups=[AdapterGroup("to_q", 2), AdapterGroup(group, 4)], text_targets=targets
        )
        with pytest.raises(ElfError, match=re.escape(f"groups: '{group}' takes no trained layer")):
            adapters.refuse_unused_groups(config, {"unet": ["a.to_q"], "text_encoder": ["q_proj"]})


def test_a_shadowed_group_is_refused_where_it_is_injected(unet: nn.Module) -> None:
    groups = [AdapterGroup("to_q", 2), AdapterGroup("mid_block.*.to_q", 4)]
    with pytest.raises(ElfError, match=r"takes no trained layer that a group before it does not"):
        adapters.inject(unet, AdapterConfig(groups=groups))
