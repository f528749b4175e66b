"""A second reader of pictures: checks the base independently of the tagger.

Another network, another loss and other drawings than the tagger's: one answer an attribute,
from a softmax, where the tagger has one sigmoid a tag. It has never seen a generated picture.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from elf.tiny.data import PROBE, Pictures, padded
from elf.tiny.loop import Budget, train
from elf.tiny.train_tagger import gather
from elf.world.scene import ATTRIBUTES, CHOICES, Scene

FILE = "probe.safetensors"


class Probe(nn.Module):
    """Strided convolutions with group norm, and a linear layer over all attributes' values."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, stride in ((16, 1), (24, 2), (32, 2), (40, 1), (40, 2)):
            layers += [
                nn.Conv2d(channels, width, 5 if channels == 3 else 3, stride, padding="valid"),
                nn.GroupNorm(4, width),
                nn.SiLU(),
            ]
            channels = width
        self.features = nn.Sequential(*layers, nn.Conv2d(channels, 20, 1), nn.Flatten())
        self.head = nn.LazyLinear(sum(len(values) for values in CHOICES.values()))
        self(torch.zeros(1, 64, 64, 3))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(batch, 64, 64, 3) RGB in 0-255 to the logits of each attribute."""
        logits = self.head(self.features(images.permute(0, 3, 1, 2).float() / 127.5 - 1))
        return list(logits.split([len(values) for values in CHOICES.values()], dim=1))


def answers(scenes: Sequence[Scene]) -> Tensor:
    """The number of each attribute's value, (scenes, attributes)."""
    rows = [[CHOICES[name].index(getattr(scene, name)) for name in ATTRIBUTES] for scene in scenes]
    return torch.tensor(rows)


def fit(
    folder: str | Path,
    budget: Budget,
    count: int = 6000,
    workers: int = 1,
    cache: Path | None = None,
) -> Path:
    """Train the probe and write it as half-precision safetensors."""
    torch.manual_seed(budget.seed + 5)
    array, scenes = gather(PROBE, count, workers, cache)
    images = torch.from_numpy(array).to(budget.device)
    truth = answers(scenes).to(budget.device)
    probe = Probe().to(budget.device)

    def loss() -> Tensor:
        chosen = torch.randint(len(images), (budget.batch,), device=budget.device)
        batch = images[chosen].float()
        soft = F.avg_pool2d(batch.permute(0, 3, 1, 2), 3, 1, 1, count_include_pad=False)
        share, strength = 0.6 * torch.rand(2, len(batch), 1, 1, 1, device=batch.device)
        batch = batch + (soft.permute(0, 2, 3, 1) - batch) * share
        batch = batch + 16 * strength * torch.randn_like(batch)
        logits = probe(batch)
        errors = [F.cross_entropy(part, truth[chosen, i]) for i, part in enumerate(logits)]
        return torch.stack(errors).mean()

    train("probe", [probe], budget, [loss], [])
    path = Path(folder) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half().cpu() for name, tensor in probe.state_dict().items()}, path)
    return path


@torch.no_grad()
def read(path: str | Path, array: Pictures) -> list[dict[str, str]]:
    """The attributes of each picture, as the stored probe sees them."""
    probe = Probe()
    probe.load_state_dict({name: part.float() for name, part in load_file(path).items()})
    batches = torch.split(torch.from_numpy(padded(array)), 128)
    parts = [[part.argmax(1) for part in probe(batch)] for batch in batches]
    columns = [torch.cat(column).tolist() for column in zip(*parts, strict=True)]
    return [
        {name: CHOICES[name][value] for name, value in zip(ATTRIBUTES, row, strict=True)}
        for row in zip(*columns, strict=True)
    ]


def probe_rate(
    seen: Sequence[dict[str, str]], scenes: Sequence[Scene]
) -> tuple[float, dict[str, float]]:
    """Share of the prompted attributes that the probe sees; absent things are not prompted.

    An outfit counts with its colour, as its tag does.
    """
    hits: dict[str, list[bool]] = {}
    for found, scene in zip(seen, scenes, strict=True):
        for name in ATTRIBUTES:
            value = getattr(scene, name)
            if value in ("none", "round") or name == "colour":
                continue
            right = found[name] == value
            if name == "outfit":
                right = right and found["colour"] == scene.colour
            hits.setdefault(name, []).append(right)
    rates = {name: float(np.mean(values)) for name, values in hits.items()}
    return float(np.mean([hit for values in hits.values() for hit in values])), rates
