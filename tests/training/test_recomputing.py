"""Blocks chosen for gradient checkpointing: they alone recompute, and no number changes."""

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elf import trainer
from elf.adapters import AdapterConfig
from elf.bases import open_base
from elf.bases.configs import CONFIGS
from elf.errors import ElfError
from elf.objective import ObjectiveConfig
from elf.planning import PlannedTraining
from elf.planning.probing import filled
from elf.training.building import Built, build
from elf.training.checkpoints import read_checkpoint
from elf.training.optimization import LearningRates
from elf.training.recomputing import named_blocks, outer_blocks

# all layers, so that each block leaves something
ADAPTER = AdapterConfig("lora", 4, targets="attention+feedforward+convolutions")
WITH_TEXT = AdapterConfig("lora", 4, text_targets="attention")
NESTED: list[list[str]] = [
    [],
    ["up_blocks.2"],
    ["up_blocks.2", "down_blocks.1.attentions.*"],
    ["up_blocks.2", "down_blocks.1"],
    ["up_blocks.2", "down_*"],
    ["up_blocks.2", "down_*", "mid_block"],
    ["*"],
]
LAST = "checkpoints/last.ckpt"


class Counted:
    """A step of a tiny base, with what recomputes in it."""

    def __init__(self, base: Path, which: Any, adapter: AdapterConfig = ADAPTER) -> None:
        training = PlannedTraining(
            open_base(str(base)),
            adapter,
            ObjectiveConfig(),
            torch.float32,
            "live" if adapter.text_targets else "cached",
            LearningRates(),
        )
        torch.manual_seed(0)
        self.built: Built = build(
            training.base,
            adapter,
            training.objective,
            text_states=training.text_states,
            gradient_checkpointing=which,
        )
        self.calls: Counter[str] = Counter()
        for part, network in self.built.denoiser.parts.items():
            for name, module in network.named_modules():
                if type(module).__name__ in (
                    "ResnetBlock2D",
                    "BasicTransformerBlock",
                    "CLIPAttention",  # within a layer: a layer's own hooks are outside
                ):
                    self._count(f"{part}.{name}", module)
        with torch.no_grad():  # else B is zero, and A's gradients are
            for parameter in self.built.denoiser.trained_parameters():
                parameter.normal_(std=0.02)
        torch.manual_seed(1)
        self.batch = filled(training.batch(2, (64, 64), self.built), torch.device("cpu"))

    def _count(self, name: str, module: nn.Module) -> None:
        module.register_forward_pre_hook(lambda *_: self.calls.update([name]))

    def step(self) -> tuple[Tensor, list[Tensor], int]:
        """Return the loss, the gradients, and the bytes of what autograd saved."""
        saved: dict[int, int] = {}
        held: list[Tensor] = []

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)  # its address belongs to it until all are counted
            return tensor

        denoiser = self.built.denoiser
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = denoiser.training_errors(self.batch)[1].mean()
        size = sum(saved.values())
        held.clear()
        return loss, list(torch.autograd.grad(loss, denoiser.trained_parameters())), size


def published(family: str) -> nn.Module:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel.from_config(CONFIGS[family]["unet"])


def test_the_blocks_of_published_bases_have_these_names() -> None:
    found = named_blocks("unet", published("sdxl"))
    assert list(outer_blocks(published("sdxl"))) == [
        *(f"down_blocks.{n}" for n in range(3)),
        *(f"up_blocks.{n}" for n in range(3)),
        "mid_block",
    ]
    inner = [name for name in found if ".attentions." in name]
    assert len(found) == 7 + len(inner) and len(inner) == 11
    assert inner[0] == "down_blocks.1.attentions.0"
    assert len(outer_blocks(published("sd15"))) == 9


@pytest.mark.parametrize(
    "sdxl", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["sd15", "sdxl"]
)
def test_no_number_changes_and_less_is_saved_the_more_blocks_are_named(
    sdxl: bool, tiny_models: dict[str, Path], tiny_sdxl: Path
) -> None:
    base = tiny_sdxl if sdxl else tiny_models["base"]
    loss, gradients, size = Counted(base, False).step()
    assert all(gradient.any() for gradient in gradients)
    sizes = [size]
    choices: list[Any] = [*NESTED[1:], True]
    if sdxl:  # it has two blocks on each way
        choices = [[name.replace("up_blocks.2", "up_blocks.1") for name in c] for c in NESTED[1:]]
        choices.append(True)
    for which in choices:
        again, others, size = Counted(base, which).step()
        assert torch.equal(again, loss)
        assert all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))
        sizes.append(size)
    *nested, every = sizes
    assert all(more > less for more, less in pairwise(nested))
    assert every == nested[-1], "* and true are the same"


@pytest.mark.parametrize(
    ("which", "twice"),
    [
        (False, r"nothing"),
        (["down_blocks.1"], r"unet\.down_blocks\.1\..*"),
        (["up_blocks.*.attentions.0"], r"unet\.up_blocks\.\d\.attentions\.0\..*"),
        (["mid_block", "up_blocks.[01]"], r"unet\.(mid_block\.(?!resnets\.0)|up_blocks\.[01]).*"),
        (True, r"unet\.(?!mid_block\.resnets\.0).*"),  # diffusers runs that one as it is
    ],
)
def test_the_named_blocks_alone_recompute(
    which: Any, twice: str, tiny_models: dict[str, Path]
) -> None:
    counted = Counted(tiny_models["base"], which)
    counted.step()
    assert len(counted.calls) > 15
    recomputed = {name for name, number in counted.calls.items() if number == 2}
    assert recomputed == {name for name in counted.calls if re.fullmatch(twice, name)}
    assert set(counted.calls.values()) <= {1, 2}


@pytest.mark.parametrize(
    ("which", "twice"),
    [
        (True, r"text_encoder\..*|unet\.(?!mid_block\.resnets\.0).*"),
        (["text_encoder"], r"text_encoder\..*"),
        (["text_encoder.encoder.layers.1"], r"text_encoder\.(text_model\.)?encoder\.layers\.1\..*"),
        (["up_blocks.1"], r"unet\.up_blocks\.1\..*"),
    ],
)
def test_layers_of_trained_text_encoders_can_be_named(
    which: Any, twice: str, tiny_models: dict[str, Path]
) -> None:
    counted = Counted(tiny_models["base"], which, WITH_TEXT)
    _, gradients, _ = counted.step()
    plain = Counted(tiny_models["base"], False, WITH_TEXT).step()[1]
    assert all(torch.equal(a, b) for a, b in zip(gradients, plain, strict=True))
    named = {name for name in counted.calls if re.fullmatch(twice, name)}
    recomputed = {name for name, number in counted.calls.items() if number == 2}
    assert recomputed <= named
    # what is before the first adapted layer keeps nothing that would have to be made again
    first = {name for name in named if re.match(r"unet\.down_blocks\.(0|1\.resnets)", name)}
    assert recomputed >= named - first


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (
            ["down_block.0"],
            "model.gradient_checkpointing: no block is named 'down_block.0'; did you mean "
            "down_blocks.0, down_blocks.2, down_blocks.1?",
        ),
        (
            ["mid_block", "xyz"],
            "model.gradient_checkpointing: no block is named 'xyz'; there are down_blocks.0, "
            "down_blocks.1, down_blocks.2, up_blocks.0, up_blocks.1, up_blocks.2, mid_block",
        ),
        (
            ["text_encoder"],  # it is not trained
            "model.gradient_checkpointing: no block is named 'text_encoder'; there are",
        ),
        ([], "model.gradient_checkpointing is []; give true, false, or a list: [down_blocks.0]"),
        (
            "down_blocks.0",
            "model.gradient_checkpointing is 'down_blocks.0'; give true, false, or a list: ",
        ),
    ],
)
def test_what_names_no_block_is_refused(
    which: Any, message: str, tiny_models: dict[str, Path]
) -> None:
    with pytest.raises(ElfError) as error:
        Counted(tiny_models["base"], which)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def fit(training: list[str], folder: Path, *more: str) -> dict[str, Tensor]:
    trainer.run(
        "fit",
        [
            *training,
            f"--trainer.default_root_dir={folder}",
            "--trainer.limit_val_batches=0",
            "--trainer.callbacks=[]",
            *more,
        ],
    )
    state: dict[str, Tensor] = read_checkpoint(folder / LAST)["state_dict"]
    return state


def test_a_run_may_go_on_with_other_blocks(training: list[str], tmp_path: Path) -> None:
    whole = fit(training, tmp_path / "a", "--trainer.max_steps=4")
    key = "--model.gradient_checkpointing"
    fit(training, tmp_path / "b", "--trainer.max_steps=2", f"{key}=[up_blocks.*,mid_block]")
    for steps, which in ((3, "['*.attentions.*']"), (4, "true")):
        more = (f"--trainer.max_steps={steps}", f"{key}={which}", "--ckpt_path=last")
        parts = fit(training, tmp_path / "b", *more)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_command_refuses_a_name_of_no_block(training: list[str], tmp_path: Path) -> None:
    with pytest.raises(ElfError, match=r"no block is named 'mid'; there are down_blocks\.0,"):
        fit(training, tmp_path, "--model.gradient_checkpointing=[mid]")
