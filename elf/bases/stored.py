"""Single weights of a base, read from its files without the rest of their network."""

from pathlib import Path
from typing import Any

from torch import Tensor

from elf.adapters.presets import canonical
from elf.bases.base import Base
from elf.bases.detect import old_names
from elf.bases.header import Header
from elf.bases.ldm import Place, places
from elf.bases.weights import Weights, find_weights


class Stored:
    """Where a base keeps its weights, by the names that its networks have for them.

    Args:
        base: The base, a folder or a file.
    """

    def __init__(self, base: Base) -> None:
        self.base = base
        self.single = base.where.suffix.lower() == ".safetensors"
        self._configs: dict[str, dict[str, Any]] = {}
        self._names: dict[Path, dict[str, str]] = {}  # in the file, by the usual ones
        self._headers: dict[Path, Header] = {}
        self._weights: dict[str, Weights] = {}

    def header(self, path: Path) -> Header:
        """Return the header of one of the base's files."""
        if path not in self._headers:
            self._headers[path] = Header.read(path)
        return self._headers[path]

    def weights(self, part: str) -> Weights:
        """Return the files that hold a part."""
        if self.single:
            return Weights((self.base.where,), None)
        if part not in self._weights:
            self._weights[part] = find_weights(self.base.name, self.base.where, part)
        return self._weights[part]

    def place(self, part: str, name: str) -> tuple[Path, Place] | None:
        """Return the file that holds a tensor, and where; None if there is no such tensor."""
        wanted = Place(canonical(name))
        if self.single:
            config = self._configs.setdefault(part, self.base.config(part))
            wanted = places(self.base.family, part, [name], config)[name]
        for path in self.weights(part).files:
            if path not in self._names:
                usual = old_names if self.single else canonical
                self._names[path] = {usual(key): key for key in self.header(path).shapes}
            key = self._names[path].get(wanted.key)
            if key is not None:
                return path, Place(key, wanted.third, wanted.transposed)
        return None


def read_tensor(path: Path, key: str) -> Tensor:
    """Read one tensor of a file, which is not kept open: its pages would count as memory."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(key)
    return tensor
