"""The tiny tagger: a convolutional network with the file interface of a WD tagger.

`model.onnx` takes (batch, 64, 64, 3) float32, BGR, 0-255, and gives a probability for each
row of `selected_tags.csv`.
"""

import csv
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from elf.tiny.onnx_file import Graph
from elf.tiny.store import seeded
from elf.world.words import CHARACTERS, RATINGS, general_tags

RESOLUTION = 64
"""Side of the square input, px."""

RATING, GENERAL, CHARACTER = 9, 0, 4
"""The categories of a WD tag list."""


def tag_rows() -> list[tuple[str, int]]:
    """Every tag with its category, in the order of the outputs: ratings, general, characters."""
    return [
        *((name, RATING) for name in RATINGS),
        *((name, GENERAL) for name in general_tags()),
        *((name, CHARACTER) for name in CHARACTERS),
    ]


class Residual(nn.Module):
    """Two 3×3 convolutions with batch norm and a shortcut (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(batch, channels, height, width) to the same shape."""
        return torch.relu(features + self.body(features))


class Tagger(nn.Module):
    """Logits of every tag from a picture in the WD layout."""

    def __init__(self, widths: tuple[int, ...] = (24, 48, 80)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in widths:
            layers += [
                nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                Residual(width),
            ]
            channels = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Conv2d(channels, 24, 1),
            nn.Flatten(),
            nn.Linear(24 * 8 * 8, len(tag_rows())),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """(batch, 64, 64, 3) BGR in 0-255 to (batch, tags) logits."""
        pixels = pictures.permute(0, 3, 1, 2) / 127.5 - 1
        logits: Tensor = self.head(self.features(pixels))
        return logits


def export(tagger: Tagger) -> bytes:
    """The bytes of `model.onnx`: batch norms folded into convolutions, weights in float16."""
    graph = Graph("tagger")

    def constant(tensor: Tensor) -> str:
        return graph.constant(tensor.detach().cpu().numpy().astype(np.float16))

    def convolution(value: str, layer: nn.Conv2d, norm: nn.BatchNorm2d | None) -> str:
        folded = fuse_conv_bn_eval(layer, norm) if norm is not None else layer
        assert folded.bias is not None
        side, padding, stride = folded.kernel_size[0], int(folded.padding[0]), folded.stride[0]
        return graph.node(
            "Conv",
            [value, constant(folded.weight), constant(folded.bias)],
            kernel_shape=[side, side],
            pads=[padding] * 4,
            strides=[stride, stride],
        )

    def run(value: str, layers: list[nn.Module]) -> str:
        for place, layer in enumerate(layers):
            if isinstance(layer, nn.Conv2d):
                after = layers[place + 1]
                norm = after if isinstance(after, nn.BatchNorm2d) else None
                value = convolution(value, layer, norm)
            elif isinstance(layer, nn.ReLU):
                value = graph.node("Relu", [value])
            elif isinstance(layer, Residual):
                inner = run(value, list(layer.body))
                value = graph.node("Relu", [graph.node("Add", [value, inner])])
            elif isinstance(layer, nn.Flatten):
                value = graph.node("Flatten", [value], axis=1)
            elif isinstance(layer, nn.Linear):
                weights = [constant(layer.weight), constant(layer.bias)]
                value = graph.node("Gemm", [value, *weights], transB=1)
        return value

    tagger.eval()
    value = graph.node("Transpose", ["input"], perm=[0, 3, 1, 2])
    value = graph.node("Div", [value, graph.constant(np.array([127.5], np.float32))])
    value = graph.node("Sub", [value, graph.constant(np.array([1.0], np.float32))])
    value = run(value, [*tagger.features, *tagger.head])
    graph.node("Sigmoid", [value], output="output")
    return graph.model(
        {"input": ["batch", RESOLUTION, RESOLUTION, 3]}, {"output": ["batch", len(tag_rows())]}
    )


def save(tagger: Tagger, folder: str | Path, counts: list[int] | None = None) -> Path:
    """Write `model.onnx` and `selected_tags.csv`.

    Args:
        tagger: the network; it is put into evaluation mode.
        folder: where to write.
        counts: how often each tag occurred in training, for the list's last column.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(export(tagger))
    rows = tag_rows()
    counts = counts or [0] * len(rows)
    with (folder / "selected_tags.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("tag_id", "name", "category", "count"))
        for number, ((name, category), count) in enumerate(zip(rows, counts, strict=True)):
            writer.writerow((number, name, category, count))
    return folder


def build(folder: str | Path, seed: int = 0) -> Path:
    """Write an untrained tagger."""
    with seeded(seed):
        return save(Tagger(), folder)
