"""Weights out of a file that torch wrote, TorchScript's too, without running anything of it.

Such a file is a zip archive: ``data.pkl`` describes an object, ``data/0``, ``data/1`` … hold the
storages of its tensors, and TorchScript's has source code beside them, which is not read here. A
pickle can call any function by name, so that this one is read with nothing in reach but tensors,
plain containers, and an attribute holder for whatever class it names under ``__torch__``.

Source of the format: PyTorch's ``torch/csrc/jit/docs/serialization.md``.
"""

import functools
import io
import operator
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elf.errors import ElfError, first_line

MOST_PICKLE = 1 << 24
"""Bytes of a ``data.pkl`` at the most: a ResNet-50's has some 100 kB."""

MOST_OBJECTS = 10_000
"""Modules at the most: by references to each other few bytes can describe endlessly many."""

OPERATIONS = frozenset(
    "PROTO STOP MARK GLOBAL NEWOBJ REDUCE BUILD BINPERSID BINPUT LONG_BINPUT BINGET LONG_BINGET "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS "
    "NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINSTRING".split()
)
"""What torch's writers use of the pickle machine's instructions."""

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}

LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")


class Attributes:
    """Stands for an object of any class of the archive: it holds attributes and does nothing."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        if type(state) is not dict:
            raise ValueError("an object's state is no mapping of its attributes")
        self.values = state


def read_tensors(path: Path, remedy: str) -> dict[str, Tensor]:
    """Return the tensors of a TorchScript module or of a state dict, by their names.

    Args:
        path: A ``.torchscript.pt``, or what ``torch.save`` wrote.
        remedy: The way out, for the message.

    Raises:
        ElfError: If it is no such file, damaged, or asks for anything that no weights need.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _State(archive, path, remedy).tensors()
    except ElfError:
        raise
    except Exception as error:  # a stranger's file: zipfile and pickle raise anything on one
        reason = first_line(error, 160)
        raise ElfError(f"{path}: no whole archive of torch's ({reason}); {remedy}") from None


class _State(pickle.Unpickler):
    """The object that an archive describes; the names it looks up are looked up here alone."""

    def __init__(self, archive: zipfile.ZipFile, path: Path, remedy: str) -> None:
        self._archive = archive
        self._path = path
        self._remedy = remedy
        self._storages: dict[str, Tensor] = {}
        self._left = path.stat().st_size
        roots = [
            name.removesuffix("data.pkl")
            for name in archive.namelist()
            if name.endswith("/data.pkl") and name.count("/") == 1
        ]
        if len(roots) != 1:
            raise ValueError(f"{len(roots)} data.pkl in it, not one")
        self._root = roots[0]
        if f"{self._root}byteorder" in archive.namelist() and self._read("byteorder") != b"little":
            raise ValueError("its numbers are not little-endian")
        data = self._read("data.pkl", MOST_PICKLE)
        _require_plain(data)
        super().__init__(io.BytesIO(data))

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of all modules of the object, by their dotted names."""
        return _named(self.load())

    def _read(self, member: str, most: int | None = None) -> bytes:
        info = self._archive.getinfo(self._root + member)
        if info.compress_type != zipfile.ZIP_STORED:  # torch's never are; a bomb's are
            raise ValueError(f"{member} is compressed")
        if most is not None and info.file_size > most:
            raise ValueError(f"{member} has {info.file_size:,} bytes")
        return self._archive.read(info)

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name of the pickle.

        Raises:
            ElfError: For every name that is not of the few that weights need.
        """
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle" and name in (*LISTS, "restore_type_tag"):
            return _plain
        if module == "__torch__" or module.startswith("__torch__."):
            return Attributes
        asked = f"{module}.{name}"[:80]
        raise ElfError(
            f"{self._path}: asks for {asked if asked.isprintable() else repr(asked)}, which no "
            f"weights need and which could run code (it was not run); {self._remedy}"
        )

    def persistent_load(self, pid: Any) -> Tensor:
        """Return the storage that the pickle names: ``("storage", type, key, device, count)``."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or type(dtype) is not torch.dtype or not str(key).isalnum():
            raise ValueError("a reference to something other than a storage")
        if key not in self._storages:
            data = bytearray(self._read(f"data/{key}"))
            if len(data) != count * dtype.itemsize:
                raise ValueError(f"data/{key} has {len(data):,} bytes, not {count} {dtype}")
            self._left -= len(data)
            if self._left < 0:  # members that lie in each other can be endless, too
                raise ValueError("its storages are larger than the file")
            storage = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            self._storages[key] = storage
        if self._storages[key].dtype != dtype:
            raise ValueError(f"data/{key} is of two types")
        return self._storages[key]


def _require_plain(data: bytes) -> None:
    """Refuse what torch's writers never write, before any of it is carried out.

    Among it are gaps in the memo, for which room would be made.
    """
    places = 0
    for operation, argument, _ in pickletools.genops(data):
        if operation.name not in OPERATIONS:
            raise ValueError(f"its pickle uses {operation.name}")
        if operation.name in ("BINPUT", "LONG_BINPUT"):
            if argument != places:
                raise ValueError("its pickle's memo has gaps")
            places += 1


def _tensor(
    storage: Tensor,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    *_: object,
) -> Tensor:
    """Return a view of a storage that lies within it."""
    numbers = (offset, *size, *stride)
    if any(type(n) is not int or n < 0 for n in numbers) or len(size) != len(stride):
        raise ValueError("a tensor's shape is none")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count = functools.reduce(operator.mul, size, 1)
    if count > len(storage) or (count and last >= len(storage)):
        raise ValueError("a tensor reaches beyond its storage")
    return storage.as_strided(size, stride, min(offset, len(storage)))


def _plain(value: object, *_: object) -> object:
    """Return a list as it is: only its static type stands behind it."""
    return value


def _named(described: object) -> dict[str, Tensor]:
    """Return the tensors of a module and of those inside it, or of a state dict."""
    tensors: dict[str, Tensor] = {}
    waiting = [("", described, 0)]
    for _ in range(MOST_OBJECTS):
        if not waiting:
            return tensors
        prefix, value, depth = waiting.pop()
        if isinstance(value, Attributes):
            held: Mapping[Any, object] = value.values
        elif isinstance(value, dict) and not depth:
            held = value
        else:
            continue
        for name, item in held.items():
            if isinstance(item, Tensor):
                tensors[f"{prefix}{name}"] = item
            elif isinstance(item, Attributes):
                waiting.append((f"{prefix}{name}.", item, depth + 1))
    raise ValueError(f"more than {MOST_OBJECTS} modules in each other")
