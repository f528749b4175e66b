"""Which adapters are served: those of one folder, each read once, at the start."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from elf.bases import Base
from elf.bases.header import Header
from elf.errors import ElfError
from elf.export.trained import Trained, read_trained

OPTIONS = ("prediction_type", "zero_terminal_snr", "clip_skip", "caption_tokens")
"""What changes how a base draws, and so is one for all that are served together."""


@dataclass(frozen=True)
class Served:
    """An adapter that can be chosen.

    Attributes:
        name: As the page calls it.
        trained: It.
        trigger: The word that calls it up; None if none is known.
    """

    name: str
    trained: Trained
    trigger: str | None


def find(folder: Path, triggers: Mapping[str, str], base: Base) -> tuple[list[Served], list[str]]:
    """Read the adapters in a folder: ``.safetensors`` files, and folders of them or of runs.

    Args:
        folder: Where they are; links that lead out of it are passed over.
        triggers: Words that call them up, by their names; else what a file's header says.
        base: On which they are to work.

    Returns:
        Those that work on the base, by their names, and a line for each of the others.

    Raises:
        ElfError: If there is no such folder, or a trigger is of no adapter.
    """

    def read(path: Path) -> Trained:
        trained = read_trained(path, base.name)
        _refuse_others(trained, base)
        return trained

    found, refused = read_all(folder, read)
    served = [
        Served(name, trained, triggers.get(name) or stated_trigger(trained.path))
        for name, trained in found.items()
    ]
    if odd := sorted(triggers.keys() - {each.name for each in served}):
        raise ElfError(
            f"triggers: there is no adapter {odd[0]!r} in {folder} that can be served; "
            "name one by its file or run"
        )
    return served, refused


def read_all(folder: Path, read: Callable[[Path], Trained]) -> tuple[dict[str, Trained], list[str]]:
    """Read what may be adapters in a folder.

    Args:
        folder: Where they are; links that lead out of it are passed over.
        read: Reads one, and refuses it by an ElfError.

    Returns:
        Those that are served, by their names, and a line for each of the others.

    Raises:
        ElfError: If there is no such folder.
    """
    if not folder.is_dir():
        raise ElfError(f"adapters: no folder {folder}; give one of adapters, or of runs")
    served, refused = dict[str, Trained](), list[str]()
    for path in sorted(folder.iterdir()):
        if not path.resolve().is_relative_to(folder.resolve()) or not _may_be_one(path):
            continue
        name = path.stem if path.suffix == ".safetensors" else path.name
        try:
            served[name] = read(path)
        except ElfError as error:
            refused.append(f"{name} is not served: {error}")
    return served, refused


def _may_be_one(path: Path) -> bool:
    if path.suffix == ".safetensors":
        return path.is_file()
    return (path / "checkpoints" / "last.ckpt").is_file() or any(path.glob("*.safetensors"))


def _refuse_others(trained: Trained, base: Base) -> None:
    trained.refuse_other_base(base, "base")
    for key in OPTIONS:
        wanted, mine = trained.base_options.get(key), getattr(base, key)
        if wanted is not None and wanted != mine:
            raise ElfError(f"it was trained with {key} {wanted}, and {key} {mine} is served")


def stated_trigger(path: Path) -> str | None:
    """Return the trigger phrase that a file's header states."""
    if path.suffix != ".safetensors":
        return None
    return Header.read(path).metadata.get("modelspec.trigger_phrase")
