"""A fused UNet is the UNet: outputs and gradients, adapter by adapter, in each family."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from elf.adapters import AdapterGroup, reuse_norms
from elf.fused import fuse
from elf.fused.attention import FusedAttention
from elf.fused.blocks import FUSED
from elf.kernels import can_compile
from elf.quantized import quantize
from elf.training.recomputing import checkpoint_activations

Function = Callable[..., Any]
ALL = "attention+feedforward+convolutions"
ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora, checkpointing": {"checkpointing": True},
    "lora, all layers": {"targets": ALL},
    "lora, all layers, checkpointing": {"targets": ALL, "checkpointing": True},
    "dropout": {"dropout": 0.3, "targets": "attention+feedforward"},
    "dropout, checkpointing": {"dropout": 0.3, "checkpointing": True},
    "other ranks": {"groups": [AdapterGroup("to_q", rank=2)]},
    "pissa": {"init": "pissa"},
    "dora": {"kind": "dora"},
    "dora, norms kept": {"kind": "dora", "kept": True},
    "dora, norms kept, checkpointing": {"kind": "dora", "kept": True, "checkpointing": True},
    "dora, input axis": {"kind": "dora", "axis": "input"},
    "dora, all layers, checkpointing": {"kind": "dora", "targets": ALL, "checkpointing": True},
    "nf4": {"quantization": "nf4"},
    "int8, dora": {"quantization": "int8", "kind": "dora"},
}
FAMILIES = pytest.mark.parametrize("family", ["sd15", "sdxl"])


def counts(unet: nn.Module) -> dict[type, tuple[int, int]]:
    """Return how many modules of a class there are, and how many of them are fused."""
    found: dict[type, tuple[int, int]] = {}
    for kind, fused in FUSED.items():
        modules = [module for module in unet.modules() if isinstance(module, kind)]
        found[kind] = len(modules), sum(type(module) is fused for module in modules)
    attentions = [module for module in unet.modules() if isinstance(module, Attention)]
    processors = [module.processor for module in attentions]
    fused_ones = sum(isinstance(each, FusedAttention) for each in processors)
    return {**found, Attention: (len(attentions), fused_ones)}


@FAMILIES
@pytest.mark.parametrize("name", ADAPTERS)
def test_outputs_and_gradients_are_those_of_the_plain_unet(
    name: str,
    family: str,
    make_unet: Function,
    adapted: Function,
    step: Function,
    assert_same: Function,
) -> None:
    options = dict(ADAPTERS[name])
    recomputes, kind = options.pop("checkpointing", False), options.pop("quantization", None)
    kept = options.pop("kept", False)
    networks = []
    for fused in (False, True):
        unet = make_unet(family)
        if kind is not None:
            quantize(unet, kind)
        adapted(unet, **options)
        if fused:
            fuse(unet)
            assert min(found for found, _ in counts(unet).values()) > 1
            for module, (found, replaced) in counts(unet).items():
                assert found == replaced, module
        if recomputes:
            checkpoint_activations(unet)
        if kept:  # as in training: then DoRA's layers are joined, too
            trained = [each for each in unet.parameters() if each.requires_grad]
            reuse_norms(unet, torch.optim.SGD(trained))
        networks.append(unet)
    plain, unet = networks
    assert_same(step(unet), step(plain))
    joined = [
        each.processor.joined is not None for each in unet.modules() if isinstance(each, Attention)
    ]
    if options.get("axis") != "input":
        assert set(joined) == {kind is None}, "what is quantised has no weights to be joined"


@FAMILIES
def test_it_is_the_same_without_an_adapter_and_at_any_size(
    family: str, make_unet: Function, conditions: Function
) -> None:
    plain, unet = make_unet(family), make_unet(family)
    fuse(unet)
    fuse(unet)  # to fuse what is fused changes nothing
    with torch.no_grad():
        for shape in ((2, 4, 8, 12), (1, 4, 2, 2), (2, 4, 2, 10)):
            given = conditions(plain, shape[0])
            given["sample"] = torch.randn(shape)
            ours, wanted = (each(**given, return_dict=False)[0] for each in (unet, plain))
            torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


def test_names_and_values_of_the_weights_stay(make_unet: Function, adapted: Function) -> None:
    unet = adapted(make_unet())
    wanted = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    kinds = {name: type(parameter) for name, parameter in unet.named_parameters()}
    fuse(unet)
    assert list(unet.state_dict()) == list(wanted)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in unet.state_dict().items())
    assert {name: type(parameter) for name, parameter in unet.named_parameters()} == kinds
    plain = adapted(make_unet())
    plain.load_state_dict(unet.state_dict())


UNUSUAL: dict[str, dict[str, Any]] = {
    "scale and shift": {"time_embedding_norm": "scale_shift"},
    "another activation": {"non_linearity": "gelu"},
    "dropout": {"dropout": 0.1},
    "no activation of the embedding": {"skip_time_act": True},
    "a scale": {"output_scale_factor": 2.0},
    "larger": {"up": True},
    "smaller": {"down": True},
}


@pytest.mark.parametrize("name", [*UNUSUAL, "none"])
def test_residual_blocks_that_do_something_else_are_left_alone(name: str) -> None:
    torch.manual_seed(0)
    options = {"in_channels": 8, "out_channels": 16, "temb_channels": 12, "groups": 4}
    block = ResnetBlock2D(**options, **UNUSUAL.get(name, {})).requires_grad_(requires_grad=False)
    x, embedding = torch.randn(2, 8, 6, 5), torch.randn(2, 12)
    wanted = block.eval()(x, embedding)
    fuse(nn.ModuleList([block]))
    assert (type(block) is ResnetBlock2D) == (name != "none")
    torch.testing.assert_close(block(x, embedding), wanted, rtol=1e-5, atol=1e-5)


def test_a_block_without_an_embedding_is_fused() -> None:
    torch.manual_seed(0)
    block = ResnetBlock2D(in_channels=8, temb_channels=None, groups=4)
    block.requires_grad_(requires_grad=False)
    x = torch.randn(3, 8, 6, 5)
    wanted = block(x, None)
    fuse(nn.ModuleList([block]))
    assert type(block) is not ResnetBlock2D
    torch.testing.assert_close(block(x, None), wanted, rtol=1e-5, atol=1e-5)


def test_another_activation_at_the_end_is_left_alone(
    make_unet: Function, step: Function, assert_same: Function
) -> None:
    plain, unet = (make_unet("sd15", act_fn="gelu") for _ in range(2))
    for each in (plain, unet):
        each.conv_in.requires_grad_(requires_grad=True)
    fuse(unet)
    assert type(unet.conv_norm_out) is nn.GroupNorm
    assert_same(step(unet), step(plain))


def test_blocks_that_resize_within_and_attention_with_a_norm_are_left_alone(
    make_unet: Function, step: Function, assert_same: Function
) -> None:
    def make() -> Any:
        unet = make_unet(
            "sd15",
            down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
            up_block_types=("ResnetUpsampleBlock2D", "AttnUpBlock2D"),
        )
        unet.conv_in.requires_grad_(requires_grad=True)
        return unet

    plain, unet = make(), make()
    fuse(unet)
    for sampler in (unet.down_blocks[0].downsamplers[0], unet.up_blocks[0].upsamplers[0]):
        assert type(sampler) is ResnetBlock2D
    attentions = [each for each in unet.down_blocks.modules() if isinstance(each, Attention)]
    assert attentions
    assert all(each.residual_connection and each.group_norm is not None for each in attentions)
    assert not [each for each in attentions if isinstance(each.processor, FusedAttention)]
    assert_same(step(unet), step(plain))


def test_other_inputs_of_a_unet(
    make_unet: Function, adapted: Function, step: Function, assert_same: Function
) -> None:
    """Residuals as of a ControlNet, whose layout is another; a mask of tokens; classes."""
    shapes = [(32, 8, 12), (32, 8, 12), (32, 4, 6), (64, 4, 6)]
    more = {
        "down_block_additional_residuals": tuple(torch.randn(2, *shape) for shape in shapes),
        "mid_block_additional_residual": torch.randn(2, 64, 4, 6),
        "encoder_attention_mask": torch.arange(7).expand(2, 7) < torch.tensor([[4], [7]]),
        "class_labels": torch.tensor([1, 3]),
    }
    plain = adapted(make_unet("sd15", num_class_embeds=5), targets=ALL)
    unet = adapted(make_unet("sd15", num_class_embeds=5), targets=ALL)
    fuse(unet)
    assert_same(step(unet, **more), step(plain, **more))


def test_what_of_the_base_is_trained_keeps_its_gradients(
    make_unet: Function, step: Function, assert_same: Function
) -> None:
    """Norms, biases and convolutions, whose forward pass is not their own any more."""
    plain, unet = (make_unet().requires_grad_(requires_grad=True).train() for _ in range(2))
    fuse(unet)
    ours, wanted = step(unet), step(plain)
    assert_same(ours, wanted, 1e-4)


def test_under_autocast_it_is_as_near_as_the_plain_one(make_unet: Function, step: Function) -> None:
    def make() -> Any:
        unet = make_unet()
        unet.time_embedding.requires_grad_(requires_grad=True)
        unet.conv_in.requires_grad_(requires_grad=True)
        return unet

    plain, unet = make(), make()
    fuse(unet)
    exact = step(plain)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = step(unet), step(plain)
    for name, wanted in exact.items():
        assert ours[name].dtype == theirs[name].dtype
        errors = [float((each[name] - wanted).norm() / wanted.norm()) for each in (ours, theirs)]
        assert errors[0] < 2 * errors[1] + 1e-3, name


def test_a_copy_is_fused_too_and_apart(
    make_unet: Function, adapted: Function, step: Function, assert_same: Function
) -> None:
    unet = adapted(make_unet())
    fuse(unet)
    wanted = step(unet)
    other = copy.deepcopy(unet)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.zero_()
    assert_same(step(other), wanted, 0)


def test_there_is_nothing_to_fuse_for_on_a_cpu() -> None:
    assert not can_compile(torch.device("cpu"))
    assert not can_compile(torch.device("mps"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU that works")
def test_where_triton_does_not_work_a_warning_says_so() -> None:
    pytest.importorskip("triton")
    can_compile.cache_clear()
    with pytest.warns(UserWarning, match=r"working without Elf's fused kernels, slower: .+"):
        assert not can_compile(torch.device("cuda"))
