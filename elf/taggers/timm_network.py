"""A tagger's network from the files that timm writes: ``config.json`` and ``model.safetensors``."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from elf.errors import ElfError, first_line
from elf.pretrained import refuse_too_many_layers

WEIGHTS, CONFIG = "model.safetensors", "config.json"
ONNX = "take the ONNX file (--model.wd.backend onnx)"
AGAIN = f"fetch the file again from where the model is, or {ONNX}"


@dataclass(frozen=True)
class TimmSettings:
    """What a ``config.json`` says of the network and its input.

    Attributes:
        architecture: timm's name of it.
        num_classes: Its outputs; None where the file leaves it to the weights.
        model_args: Further arguments of its constructor.
        size: Side of the square input, px.
        mean: Of red, green and blue, for values of 0 to 1.
        std: The same.
    """

    architecture: str
    num_classes: int | None
    model_args: Mapping[str, Any]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, path: Path) -> "TimmSettings":
        """Read a ``config.json``.

        Raises:
            ElfError: If it is damaged or no such file, or if the input is no square picture.
        """
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            trained = facts["pretrained_cfg"]
            shape = [int(length) for length in trained["input_size"]]
            mean, std = (tuple(float(x) for x in trained[name]) for name in ("mean", "std"))
            arguments = dict(facts.get("model_args") or {})
            classes = facts.get("num_classes")
            settings = cls(
                str(facts["architecture"]),
                None if classes is None else int(classes),
                arguments,
                shape[-1],
                mean,
                std,
            )
            fits = len(mean) == len(std) == 3 and all(deviation > 0 for deviation in std)
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            fits = False
        if not fits:
            raise ElfError(
                f"{path}: not timm's config of a network (architecture, and pretrained_cfg with "
                f"input_size, mean and std); {AGAIN}"
            )
        size = settings.size
        for given in (shape, arguments.get("img_size", size)):
            if given not in ([3, size, size], [size, size], size):
                raise ElfError(
                    f"{path}: an input of {given}, not of (3, {size}, {size}) in all places; "
                    "is it a WD tagger's config?"
                )
        return settings


def load_network(folder: Path, settings: TimmSettings, tags: int) -> nn.Module:
    """Return a tagger's network in float32 on the CPU, ready to be run.

    Args:
        folder: Where its files are.
        settings: What its ``config.json`` says.
        tags: The length of its tag list.

    Raises:
        ElfError: If timm is not there or does not know the network, or if config, weights and tag
            list do not belong together.
    """
    config, path = folder / CONFIG, folder / WEIGHTS
    timm = import_timm()
    if not timm.is_model(settings.architecture):
        raise ElfError(
            f"{config}: timm {timm.__version__} knows no architecture {settings.architecture!r}; "
            f"`pip install -U timm`, or {ONNX}"
        )
    if settings.num_classes not in (None, tags):
        raise ElfError(
            f"{config}: num_classes {settings.num_classes} for the {tags} tags of "
            f"selected_tags.csv; the two files do not belong together: {AGAIN}"
        )
    refuse_too_many_layers(settings.model_args, config, "tagger")
    try:
        network: nn.Module = timm.create_model(
            settings.architecture, pretrained=False, num_classes=tags, **settings.model_args
        )
    except Exception as error:  # whatever a network's constructor makes of unknown arguments
        raise ElfError(
            f"{config}: timm {timm.__version__} could not build {settings.architecture} of it "
            f"({first_line(error)}); {AGAIN}"
        ) from None
    _load(network, path)
    return network.eval().requires_grad_(False)


def _load(network: nn.Module, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
        # tables that older versions of timm stored, and that newer ones compute
        computed = {name for name, _ in network.named_buffers()} - network.state_dict().keys()
        network.load_state_dict({k: v for k, v in state.items() if k not in computed})
    except (SafetensorError, OSError, ValueError) as error:
        raise ElfError(f"{path}: could not be loaded ({first_line(error)}); {AGAIN}") from None
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise ElfError(
            f"{path}: its weights are not those of the network in {CONFIG} "
            f"({(lines[1:] or lines)[0][:200]}); {AGAIN}"
        ) from None


def import_timm() -> Any:
    """Return timm.

    Raises:
        ElfError: If it cannot be imported.
    """
    try:
        with warnings.catch_warnings():  # older versions use what torch is about to drop
            warnings.simplefilter("ignore", FutureWarning)
            import timm
    except ImportError as error:
        raise ElfError(
            f"model.wd.backend: torch needs timm ({first_line(error)}); `pip install timm`, or "
            f"{ONNX}"
        ) from None
    return timm


class PixelNetwork(nn.Module):
    """A network behind the preprocessing of its values, for bytes in and probabilities out."""

    network: Any  # forward_features and forward_head, which nn.Module does not promise
    scale: Tensor
    shift: Tensor
    dtype: torch.dtype = torch.float32

    def __init__(self, network: nn.Module, settings: TimmSettings) -> None:
        super().__init__()
        self.network = network
        self.convolutional = settings.architecture.startswith("convnext")
        mean, std = torch.tensor(settings.mean), torch.tensor(settings.std)
        # the channels are reversed before they are normalised
        self.register_buffer("scale", (1 / (255 * std)).flip(0), persistent=False)
        self.register_buffer("shift", (-mean / std).flip(0), persistent=False)

    def cast(self, dtype: torch.dtype) -> None:
        """Give the weights another number format; the normalisation stays in float32."""
        layout = torch.channels_last if self.convolutional else torch.preserve_format
        self.network.to(dtype).to(memory_format=layout)
        self.dtype = dtype

    def forward(self, pixels: UInt8[Tensor, "batch size size 3"]) -> Float[Tensor, "batch outputs"]:
        """Return the probabilities of the tags and behind them the pooled features, float32.

        One tensor of both needs one copy to the host, and with it one wait for the device.
        """
        # (B, S, S, RGB) → (B, BGR, S, S); float32 holds every byte exactly, float16 would round
        inputs = pixels.flip(-1).float() * self.scale + self.shift
        inputs = inputs.permute(0, 3, 1, 2).to(self.dtype)
        if not self.convolutional:  # permuted, it is channels_last already
            inputs = inputs.contiguous()
        features = self.network.forward_features(inputs)
        pooled = self.network.forward_head(features, pre_logits=True)  # (B, D)
        logits = self.network.forward_head(features)  # (B, T)
        return torch.cat([logits.float().sigmoid(), pooled.flatten(1).float()], 1)
