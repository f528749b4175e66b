"""Checkpoint files: written atomically, read without running code, found by name."""

import glob
import hashlib
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch.serialization import get_unsafe_globals_in_checkpoint

from elf.errors import ElfError, first_line
from elf.files import atomic_path, explain_disk_errors


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints so that every visible one is whole, on any file system.

    Lightning writes to the temp folder and moves: across file systems that is a copy which can be
    seen half-written, and it never syncs.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint under a temporary name in its own folder, sync, rename.

        Raises:
            ElfError: If it holds what could not be read back, or the disk refuses it; the one
                before is left as it was.
        """
        remedy = "those before it are whole: make room, then go on with --ckpt_path last"
        with (
            explain_disk_errors(path, "could not be written", remedy),
            atomic_path(path) as temporary,
        ):
            _save(checkpoint, temporary)
            if foreign := get_unsafe_globals_in_checkpoint(temporary):
                raise ElfError(
                    f"{path} was not written: the run's state holds {', '.join(sorted(foreign))}, "
                    "which is read from no checkpoint; leave out the callback or optimizer that "
                    "keeps it, or let it keep tensors and plain values"
                )

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint; only tensors and plain values are accepted."""
        return read_checkpoint(path)


def _save(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint; what its disk says is hidden by torch, and has no name when it writes."""
    with open(path, "wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running any code in it.

    Raises:
        ElfError: If the file is no checkpoint, is damaged, or holds more than plain values.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ElfError(f"no checkpoint {path}; `elf fit` writes them into checkpoints/") from None
    except Exception as error:  # torch.load raises anything on damaged files
        first = first_line(error, 120)
        if isinstance(error, pickle.UnpicklingError):  # torch tells of its own versions instead
            first = "it holds something else than tensors and plain values"
        elif "PytorchStreamReader" in first:
            first = "it is cut, or was never written to its end"
        raise ElfError(
            f"{path} is no checkpoint of Elf, or is damaged ({first}); give another checkpoint"
        ) from None
    if not isinstance(checkpoint, dict) or "elf" not in checkpoint:
        raise ElfError(f"{path} is no checkpoint of Elf; give one that `elf fit` wrote")
    return checkpoint


def last_checkpoint(run_folder: str | Path) -> Path:
    """Return the newest checkpoint of a run.

    Raises:
        ElfError: If the run has none.
    """
    last = Path(run_folder) / "checkpoints" / "last.ckpt"
    if not last.is_file():
        raise ElfError(f"no checkpoint in {last.parent}; `elf fit` writes one there")
    return last


def named_checkpoints(given: str | Sequence[str], run_folder: str | Path) -> list[Path]:
    """Return the checkpoints that ``--ckpt_path`` of `elf validate` names; some may be the same.

    Args:
        given: ``last`` or ``all`` of the run's, a file, a pattern of files, or several of these: as
            a list or with commas between them. A file's name may hold a comma of its own.
        run_folder: The run's.

    Raises:
        ElfError: If there is no file of a name.
    """
    names = [given] if isinstance(given, str) else given
    parts = [p for name in names for p in ([name] if Path(name).is_file() else name.split(","))]
    found = [path for part in parts for path in _named(part.strip(), Path(run_folder))]
    if not found:
        raise ElfError(f"ckpt_path {given!r} names nothing; give a .ckpt file, `last` or `all`")
    return found


def give_checkpoint(name: str) -> str:
    """Return what to give in the place of a name that is no checkpoint: that of a run's folder."""
    inside = Path(name) / "checkpoints" / "last.ckpt"
    return f"give {inside}" if inside.is_file() else "give a .ckpt file"


def _named(name: str, run_folder: Path) -> Iterator[Path]:
    if name == "last":
        yield last_checkpoint(run_folder)
    elif name == "all":
        folder = run_folder / "checkpoints"
        # numbered ones first: others may be the same, and are known by the number then
        files = sorted(folder.glob("*.ckpt"), key=lambda p: (not p.name.startswith("step-"), p))
        if not files:
            raise ElfError(f"no checkpoint in {folder}; `elf fit` writes one there")
        yield from files
    elif Path(name).is_file():
        yield Path(name)
    elif name:
        matching = [path for path in map(Path, sorted(glob.glob(name))) if path.is_file()]
        if not matching:
            what = "file matches" if glob.has_magic(name) else "file"
            raise ElfError(
                f"ckpt_path: no {what} {name}; {give_checkpoint(name)}, a pattern in quotes, "
                "`last` or `all`"
            )
        yield from matching


def weights_hash(state: Mapping[str, torch.Tensor]) -> str:
    """Return the sha256 of some tensors, their names and shapes in hex."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def evaluated_state(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the adapter that is evaluated and exported: an average, if the run has one."""
    averaged: dict[str, torch.Tensor] | None = checkpoint["elf"].get("averaged")
    trained: dict[str, torch.Tensor] = checkpoint["state_dict"]
    return trained if averaged is None else averaged


def last_good(run_folder: str | Path) -> str:
    """Say which checkpoint is from before a run went wrong."""
    path = Path(run_folder) / "checkpoints" / "last.ckpt"
    return f"{path} is from before" if path.is_file() else "no checkpoint was written before"
