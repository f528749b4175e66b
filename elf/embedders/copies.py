"""Copy detection: is a generated picture one of the training pictures again?

With `sscd_disc_mixup` a cosine above 0.75 is a copy at 90 % precision (its authors' figure).
"""

from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from elf.embedders.archive import read_tensors
from elf.embedders.interface import Kind, weights_folder
from elf.embedders.network import NetworkEmbedder
from elf.embedders.preprocessing import Preprocessing
from elf.embedders.sscd import Architecture, build
from elf.errors import ElfError, first_line
from elf.pretrained import expanded, is_local

WHAT = "copy embedder"
ADDRESS = "https://dl.fbaipublicfiles.com/sscd-copy-detection/sscd_disc_mixup.torchvision.pt"
WAY = f"download {ADDRESS} (0.1 GB) and give its path"

SUFFIXES = (".safetensors", ".pt")

PREPROCESSING = Preprocessing(
    shorter=288,
    size=None,
    crop=None,
    filter=Image.Resampling.BILINEAR,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
"""The authors' recommendation: the shorter side scaled to 288 px, nothing cut, ImageNet's mean and
deviation (README of facebookresearch/sscd-copy-detection, ``small_288``)."""


class CopyEmbedder(NetworkEmbedder):
    """SSCD's ResNet-50 (Pizzi et al. 2022); its embeddings are unit vectors.

    The published files are pickles: a ``.torchscript.pt`` is code besides. Of either only the
    tensors are read (:mod:`elf.embedders.archive`). A ``.safetensors`` with the same names will do.

    Args:
        name: A file, a folder with one such file, or a hub name of a ``.safetensors``.
        device: Where it runs.
        batch_size: Successive pictures of one size that are run at once.
        architecture: The network that the file must hold.

    Raises:
        ElfError: If it is not there, damaged, unsafe, or another network.
    """

    kind: Kind = "copy"

    def __init__(
        self,
        name: str,
        device: torch.device,
        batch_size: int = 16,
        architecture: Architecture = Architecture(),  # noqa: B008 (frozen)
    ) -> None:
        path = _find(name)
        self.name = name
        self.device = device
        self.batch_size = batch_size
        self.files = (path,)
        self.preprocessing = PREPROCESSING
        self.network = build(architecture, _read(path), path, WAY).to(device)

    def _embed(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features"]:
        features: Tensor = self.network(pixels)
        return features


def _find(name: str) -> Path:
    path = expanded(name)
    if is_local(name) and not path.is_dir():
        if not path.is_file():
            raise ElfError(f"{WHAT}: no file {name}; {WAY}")
        return path
    if not is_local(name):
        size = "sscd_disc_mixup (0.1 GB)"
        path = weights_folder(name, WHAT, ("*.safetensors",), (), size)
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if len(found) != 1:
        raise ElfError(
            f"{WHAT}: {path} holds {len(found)} files that end with {' or '.join(SUFFIXES)}, not "
            f"one; give the path of the file, or {WAY}"
        )
    return found[0]


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        return read_tensors(path, WAY)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        reason = first_line(error, 160)
        raise ElfError(f"{path}: could not be read ({reason}); {WAY}") from None
    return state
