"""The parser of the commands that need no trainer: options, ``--config FILE``, one-line errors.

Configs are UTF-8 on every system; jsonargparse reads them in the encoding of the country, until
this is imported.
"""

from argparse import ArgumentError
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace
from jsonargparse import Path as ConfigPath  # type: ignore[attr-defined]

from elf.configuration.config_errors import explain, refuse_circular
from elf.errors import ElfError
from elf.resources import resolve_configs


def read_configs_as_utf8() -> None:
    """Let jsonargparse read files as UTF-8; calling it again changes nothing.

    On Windows, where Python before 3.15 takes another encoding, prompts and trigger words with
    letters beyond ASCII would be other words, and nothing would say so.
    """
    original = ConfigPath.read_text
    if getattr(original, "is_of_elf", False):
        return

    def read_text(self: Any) -> str:
        absolute = Path(self.absolute)
        if absolute.is_file() and not (self.is_url or self.is_fsspec):
            return absolute.read_text("utf-8")
        text: str = original(self)
        return text

    read_text.is_of_elf = True  # type: ignore[attr-defined]
    ConfigPath.read_text = read_text  # type: ignore[method-assign]


read_configs_as_utf8()  # for LightningCLI's parsers, too


class CommandParser(ArgumentParser):
    """A jsonargparse parser with ``--config`` that raises what is wrong as one line."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"elf {command}", description=description, allow_abbrev=False)
        self.add_argument("--config", action="config", help="a YAML with the options below")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message; ``read`` explains it."""
        raise ArgumentError(None, message) from ex

    def read(self, arguments: list[str]) -> Namespace:
        """Parse arguments.

        Raises:
            ElfError: If an option is unknown, missing or of another type, or a file no UTF-8.
        """
        arguments, files = resolve_configs(arguments)
        try:
            with refuse_circular(files):
                return self.parse_args(arguments)
        except UnicodeDecodeError as error:
            raise other_encoding(error, files) from None
        except ArgumentError as error:
            known = {action.dest.rsplit(".", 1)[-1] for action in self._actions}
            raise ElfError(explain(str(error), files, known, arguments, broken(files))) from None


def other_encoding(error: UnicodeDecodeError, arguments: Iterable[str]) -> ElfError:
    """Return what is said of a configuration file that is no UTF-8.

    Args:
        error: That it raised.
        arguments: Of the command line, files among them.
    """
    paths = [Path(argument.rpartition("=")[2]) for argument in arguments]
    wrong = error.object[error.start : error.end]
    name = next(
        (
            path
            for path in paths
            if path.is_file() and path.read_bytes()[error.start : error.end] == wrong
        ),
        "a config",
    )
    return ElfError(f"{name} is not UTF-8 text, at its byte {error.start + 1}: save it as UTF-8")


def broken(files: Iterable[str]) -> list[str]:
    """Return those of some configuration files that are no YAML; one that is missing is none."""
    found = []
    for file in files:
        try:
            with open(file, encoding="utf-8") as text:
                yaml.compose(text, yaml.SafeLoader)
        except yaml.YAMLError:
            found.append(file)
        except (OSError, UnicodeDecodeError):
            continue
    return found
