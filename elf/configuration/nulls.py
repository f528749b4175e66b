"""Nulls in a configuration where a value must be: jsonargparse takes null for any type."""

import dataclasses
import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import NoneType
from typing import Any

from elf.configuration.config_errors import place_of
from elf.errors import ElfError


class Null(typing.NamedTuple):
    """A null where a value must be.

    Attributes:
        key: As it is called on the command line.
        wanted: The type.
        default: What counts if the key is left out.
    """

    key: str
    wanted: str
    default: Any


def refuse_nulls(config: Mapping[str, Any], trainer: type, files: Iterable[str]) -> None:
    """Refuse what would be a ``TypeError`` anywhere later.

    Args:
        config: A parsed configuration: values, and objects with ``class_path`` and ``init_args``.
        trainer: What the values of ``trainer`` are given to.
        files: The configuration files, searched for the key.

    Raises:
        ElfError: If there is a null that no annotation allows, with its key.
    """
    for null in find_nulls(config, trainer):
        plain = isinstance(null.default, str | int | float)
        remedy = f" for {null.default!r}" if plain else ""
        where = place_of(null.key, files)
        raise ElfError(
            f"{null.key}: expected {null.wanted}, got null{where}; give one, or leave it out"
            f"{remedy}"
        )


def find_nulls(config: Mapping[str, Any], trainer: type) -> Iterator[Null]:
    """Yield the nulls that no annotation allows; what has no annotations is left alone."""
    for key, value in config.items():
        if key == "trainer":
            yield from _among_arguments(value, trainer, key)
        else:
            yield from _inside(value, None, key)


def _among_arguments(values: Any, function: Callable[..., Any], key: str) -> Iterator[Null]:
    if not isinstance(values, Mapping):
        return
    try:
        hints = typing.get_type_hints(inspect.getattr_static(function, "__init__", function))
        parameters = inspect.signature(function).parameters
    except (NameError, TypeError, ValueError):
        return
    for name, value in values.items():
        parts = list(_parts(hints.get(name, Any)))
        if value is not None:
            yield from _inside(value, parts, f"{key}.{name}")
        elif name in parameters and parameters[name].default is not None:
            if NoneType not in parts and Any not in parts:
                yield Null(f"{key}.{name}", _name(parts[0]), parameters[name].default)


def _inside(value: Any, types: Iterable[Any] | None, key: str) -> Iterator[Null]:
    """Yield the nulls inside a value, of which is known what it may be."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _inside(item, types, f"{key}[{number}]")
    elif isinstance(value, Mapping) and isinstance(path := value.get("class_path"), str):
        module, _, name = path.rpartition(".")
        # What the parser takes for a class it has imported, if that was allowed. Nothing else is
        # to be: any mapping may hold that key.
        function = getattr(sys.modules.get(module), name, None)
        if function is not None:
            yield from _among_arguments(value.get("init_args"), function, key)
    elif isinstance(value, Mapping):
        for part in types or ():
            if isinstance(part, type) and dataclasses.is_dataclass(part):
                yield from _among_arguments(value, part, key)


def _parts(hint: Any) -> Iterator[Any]:
    """Yield a type and all that it is made of."""
    yield hint
    for part in typing.get_args(hint):
        yield from _parts(part)


def _name(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
