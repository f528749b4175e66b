"""Where pretrained weights come from: a local folder or a hub name, or one clear error."""

import contextlib
import importlib
import json
import logging
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from elf.errors import ElfError
from elf.resources import find

T = TypeVar("T")
MOST_LAYERS = 1000
"""Of a kind; no network has more, and what a damaged configuration asks for would be built."""
_LAYERS = re.compile(r"(num|n)_(hidden_)?layers?|\w*layers_per_block|(en|de)coder_layers|depths?")


def is_local(name: str) -> bool:
    """Whether a model is named by a path rather than by a hub name (``owner/name``)."""
    return (
        expanded(name).exists()
        or name.startswith((".", "/", "~"))
        or "\\" in name
        or name.count("/") != 1
    )


def model_folder(
    name: str, what: str, files: Sequence[str] = (), optional: Sequence[str] = ()
) -> Path:
    """Return the folder of a model, downloading it from the hub when it is named by its hub name.

    Args:
        name: A folder, a model that ships with Elf (``models/tiny/...``, from any folder), or a
            hub name ``owner/name``.
        what: What the model is to the user, for the message (``tagger``, ``base model``).
        files: Glob patterns of the files that are needed; all of the repository by default.
        optional: Patterns of files that are downloaded too if the repository has them.

    Raises:
        ElfError: If the folder or a needed file is missing, or if the hub cannot be reached and
            the model is not in its local cache; with what to fetch and where to put it.
    """
    name = find(name)
    if is_local(name):
        folder = expanded(name)
        if not folder.is_dir():
            raise ElfError(
                f"{what}: no folder {name}; give an existing folder or a hub name (owner/name)"
            )
    else:
        folder = _from_hub(name, what, files, optional)
    if missing := _missing(folder, files):
        raise ElfError(f"{what}: {folder} has no {missing[0]}; is it the right folder?")
    return folder


def expanded(name: str) -> Path:
    """Return the path that a user names, with ``~`` for the home folder."""
    with contextlib.suppress(RuntimeError):  # ~ and the name of nobody
        return Path(name).expanduser()
    return Path(name)


def _missing(folder: Path, files: Sequence[str]) -> list[str]:
    return [pattern for pattern in files if not any(folder.glob(pattern))]


def _from_hub(name: str, what: str, files: Sequence[str], optional: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    patterns = [*files, *optional] or None
    try:  # what is in the cache is taken without asking the network
        folder = Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
        if not _missing(folder, files):  # another download may have left only a part of it
            return folder
    except HFValidationError:
        raise ElfError(
            f"{what}: {name!r} is neither a folder nor a hub name; give one, as owner/name"
        ) from None
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        words = " ".join(str(error).split()) or "no answer"
        reason = textwrap.shorten(words.split(". ")[0], 120, placeholder=" …")
        if "/" in name and Path(name).parent.is_dir():
            raise ElfError(
                f"{what}: no folder {name}; give one that is there, for no hub model of that name "
                f"could be downloaded either ({reason})"
            ) from None
        raise ElfError(
            f"{what}: {name} is not on this machine and could not be downloaded ({reason}); "
            f"where there is a network run `hf download {name} --local-dir models/{name}`, "
            f"then give models/{name} in place of {name}"
        ) from None


def load(loader: Callable[..., T], folder: Path, what: str, **options: Any) -> T:
    """Call a ``from_pretrained`` on a folder, offline, and turn its failures into one line.

    Args:
        loader: What to call.
        folder: Where its files are.
        what: They are, for the message.
        options: Of the loader; one named ``gguf_file`` is the file that is read there.

    Raises:
        ElfError: If the folder's files do not fit the class or are damaged.
    """
    config = folder / options.get("subfolder", "") / "config.json"
    with contextlib.suppress(OSError, ValueError, RecursionError):  # the loader says more of that
        refuse_too_many_layers(json.loads(config.read_bytes()), config, what)
    for library in ("diffusers", "transformers"):
        if library in sys.modules:  # a progress bar for each part of a pipeline says nothing
            importlib.import_module(f"{library}.utils.logging").disable_progress_bar()
    try:
        return loader(os.fspath(folder), local_files_only=True, **options)
    except Exception as error:  # the libraries raise anything on values of other kinds
        lines = str(error).strip().splitlines() or [type(error).__name__]
        first = " ".join(lines[: 1 + lines[0].endswith(":")])[:200]
        place = folder / options.get("gguf_file", "")
        raise ElfError(
            f"{what}: {place} could not be loaded ({first}); download it again, or name another"
        ) from None


def refuse_too_many_layers(config: Any, where: Path, what: str) -> None:
    """Refuse a configuration of more layers than any network has, before they are built.

    Args:
        config: What it says, at any depth.
        where: It stands, for the message.
        what: It is of, for the message.

    Raises:
        ElfError: If there are too many, with their key.
    """
    found = [("", config)]
    while found:
        key, value = found.pop()
        if isinstance(value, dict):
            found += value.items()
        elif isinstance(value, list):
            found += ((key, each) for each in value)
        elif isinstance(value, int | float) and value > MOST_LAYERS and _LAYERS.fullmatch(key):
            raise ElfError(
                f"{what}: {where} has {key} {value}, more than any network; download it again"
            )


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the loaders of diffusers and transformers from reporting what the caller checks."""
    found = [name for name in ("diffusers", "transformers") if name in sys.modules]
    loggers = [importlib.import_module(f"{name}.utils.logging") for name in found]
    levels = [logger.get_verbosity() for logger in loggers]
    try:
        for logger in loggers:
            logger.set_verbosity(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.set_verbosity(level)
