"""The ``elf`` command: a table of commands, each imported only when it is called.

Only the standard library is imported here, so that ``elf --help`` answers at once.
"""

import contextlib
import difflib
import errno
import importlib
import os
import sys
import time
import warnings
from typing import Any, NamedTuple

from elf import __version__
from elf.errors import ElfError, ElfWarning
from elf.platforms import print_whatever_comes


class Command(NamedTuple):
    """Where a command lives (``function(arguments)`` in ``module``) and what it does."""

    module: str
    function: str
    does: str


COMMANDS = {
    "quickstart": Command("elf.quickstart", "main", "run the whole loop offline on tiny models"),
    "doctor": Command("elf.doctor.command", "main", "try what Elf needs, and say what to do"),
    "rename": Command("elf.rename", "main", "name pictures by their content, reversibly"),
    "curate": Command("elf.curate", "main", "find copies, near duplicates and poor pictures"),
    "predict": Command("elf.trainer", "predict", "tag and caption pictures, or answer prompts"),
    "label": Command("elf.label", "main", "review tags, captions and keep/drop in FiftyOne"),
    "prepare": Command("elf.trainer", "prepare", "write shards, buckets and caches for a config"),
    "plan": Command("elf.plan", "main", "say what memory, time and disk a training will take"),
    "fit": Command("elf.trainer", "fit", "train a LoRA or DoRA adapter"),
    "validate": Command("elf.trainer", "validate", "measure the validation loss of checkpoints"),
    "test": Command("elf.trainer", "test", "evaluate an adapter against its base"),
    "export": Command("elf.export.command", "main", "write an adapter as the file others load"),
    "serve": Command("elf.serving.command", "main", "show a page and an API to try adapters"),
}

PATIENCE = 3.0  # seconds
ON_GPU = ("predict", "prepare", "plan", "fit", "validate", "test")
"""Commands that fill a GPU's memory."""

DISK = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO")}
"""Errors of a disk that is full or fails, whichever of a run's many files meets them."""


def usage() -> str:
    """Return the help page."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {command.does}" for name, command in COMMANDS.items())
    return (
        f"elf {__version__}: from a folder of pictures to a LoRA/DoRA adapter\n\n"
        f"usage: elf COMMAND [--config FILE] [--key value ...]\n\n{rows}\n\n"
        "elf COMMAND --help shows a command's options; --print_config its whole configuration."
    )


def run(arguments: list[str]) -> None:
    """Run one command.

    Raises:
        ElfError: If there is no such command, or for whatever is wrong with its input.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    name, *rest = arguments
    if name in ("-V", "--version"):
        print(__version__)
        return
    if name not in COMMANDS:
        if name.startswith("-"):
            raise ElfError(f"{name}: no command before it; name one first, as in `elf fit {name}`")
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean `elf {near[0]}`?" if near else "`elf --help` lists the commands"
        raise ElfError(f"no command {name!r}; {hint}")
    if name in ON_GPU and "torch" not in sys.modules:  # who imported it has chosen
        from elf.allocator import allocator_settings

        os.environ |= allocator_settings(os.environ)
    command = COMMANDS[name]
    getattr(importlib.import_module(command.module), command.function)(rest)


def _line_of(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> str:
    """Return how a warning is printed: Elf's own as a line for the user."""
    if issubclass(category, ElfWarning):
        return f"elf: warning: {message}\n"
    return _as_python_does(message, category, *place, **more)


_as_python_does = warnings.formatwarning


def _let_the_first_speak() -> None:
    """Wait in the other processes of a launcher, which ends them when the first has said it.

    What is wrong with the input every process finds; what one alone has found it says a bit later.
    """
    from elf.launcher import launched

    with contextlib.suppress(ElfError):
        here = launched()
        if here is not None and here.rank:
            time.sleep(PATIENCE)


def main(arguments: list[str] | None = None) -> None:
    """Run ``elf`` as a process: errors meant for the user become one line and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        print_whatever_comes(stream)
    warnings.formatwarning = _line_of
    try:
        run(arguments)
    except ElfError as error:
        _let_the_first_speak()
        print(f"elf: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # whoever read what was printed has gone (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains at its end
        raise SystemExit(141) from None
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"elf: error: {where}the disk refuses to write ({error.strerror}): make room or mend "
            "it, then start again; files that were finished are whole",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
