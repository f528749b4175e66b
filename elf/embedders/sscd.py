"""SSCD's network (Pizzi et al. 2022, "A Self-Supervised Descriptor for Image Copy Detection").

A ResNet-50, generalised-mean pooling (p = 3), a linear layer to 512, and L2 normalisation. Its
weights carry torchvision's names or Classy Vision's, in which it was trained.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from elf.errors import ElfError

POWER, FLOOR = 3.0, 1e-6
"""Of the pooling, p, and the least activation that it sees."""


@dataclass(frozen=True)
class Architecture:
    """A network of SSCD's structure.

    Attributes:
        layers: Bottleneck blocks of each stage.
        width: Of the first stage's bottlenecks, channels.
        features: Of the embedding.
    """

    layers: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    features: int = 512


class GeneralisedMean(nn.Module):
    """GeM pooling (Radenović et al. 2018, eq. 3): the mean of p-th powers, to the power 1/p."""

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels"]:
        """Return the pooled activations."""
        return x.clamp(min=FLOOR).pow(POWER).mean(dim=(2, 3)).pow(1 / POWER)


class SSCD(nn.Module):
    """The network, with torchvision's names under ``backbone``."""

    def __init__(self, architecture: Architecture) -> None:
        from torchvision.models.resnet import Bottleneck, ResNet

        super().__init__()
        self.backbone = ResNet(
            Bottleneck,
            list(architecture.layers),
            num_classes=architecture.features,
            width_per_group=architecture.width,
        )
        self.backbone.avgpool = GeneralisedMean()

    def forward(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features"]:
        """Return unit vectors."""
        features: Tensor = nn.functional.normalize(self.backbone(pixels))
        return features


def build(architecture: Architecture, state: Mapping[str, Tensor], path: Path, way: str) -> SSCD:
    """Return the network with weights whose every name and shape has been checked.

    Args:
        architecture: The network.
        state: The weights, by torchvision's or Classy Vision's names.
        path: Of their file, for the message.
        way: The way out, for the message.

    Raises:
        ElfError: If they are another network's.
    """
    with torch.device("meta"):  # no weights are drawn only to be replaced
        network = SSCD(architecture)
    wanted = {k: v for k, v in network.state_dict().items() if not k.endswith(COUNTER)}
    named = [(torchvision_name(k), v) for k, v in state.items() if not k.endswith(COUNTER)]
    found = dict(named)
    twice = [name for name, value in named if found[name] is not value]
    problem = f"two of its weights are {twice[0]}" if twice else _difference(wanted, found)
    if problem:
        raise ElfError(f"{path}: not the weights of SSCD's ResNet-50 ({problem}); {way}")
    counters = {k: torch.zeros((), dtype=torch.long) for k in network.state_dict().keys() - wanted}
    weights = {k: v.to(torch.float32, copy=True).contiguous() for k, v in found.items()}
    network.load_state_dict(weights | counters, assign=True)
    return network.eval().requires_grad_(False)


COUNTER = ".num_batches_tracked"
"""Of a batch norm in training; SSCD's is never trained here."""


def _difference(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Return in which way weights are not those of a network; empty if they are."""
    if not found:
        return "it holds no weights by names, as a frozen TorchScript does not"
    for name, weight in wanted.items():
        if name not in found:
            return f"{name} is missing"
        shape, given = tuple(weight.shape), found[name]
        if tuple(given.shape) != shape:
            return f"{name} has the shape {tuple(given.shape)}, not {shape}"
        if not given.is_floating_point():
            return f"{name} is of type {given.dtype}"
    further = sorted(found.keys() - wanted.keys())
    return f"{further[0]} is none of its weights" if further else ""


_STEM = {"0": "conv1", "1": "bn1"}
_BLOCK = {
    "convolutional_block.0": "conv1",
    "convolutional_block.1": "bn1",
    "convolutional_block.3": "conv2",
    "convolutional_block.4": "bn2",
    "convolutional_block.6": "conv3",
    "bn": "bn3",
    "downsample.0": "downsample.0",
    "downsample.1": "downsample.1",
}
_CLASSY_STEM = re.compile(r"backbone\.initial_block\._module\.([01])\.(\w+)")
_CLASSY_BLOCK = re.compile(
    r"backbone\.blocks\.(\d)\.(?:block\d+-)?(\d+)\.(?:_module\.)?([a-z_]+(?:\.\d)?)\.(\w+)"
)


def torchvision_name(name: str) -> str:
    """Return torchvision's name of a weight with Classy Vision's; any other name is left as is."""
    if found := _CLASSY_STEM.fullmatch(name):
        return f"backbone.{_STEM[found[1]]}.{found[2]}"
    if (found := _CLASSY_BLOCK.fullmatch(name)) and found[3] in _BLOCK:
        stage, block, layer, kind = found.groups()
        return f"backbone.layer{int(stage) + 1}.{block}.{_BLOCK[layer]}.{kind}"
    return re.sub(r"^embeddings\.1\.", "backbone.fc.", name)
