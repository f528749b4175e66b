"""The configuration reference: every key of every command, read from the parsers that take them.

Nothing is said here a second time: types and defaults are those of the signatures, words those of
the docstrings and of the options' help. ``docs/conf.py`` puts the pages together.
"""

import argparse
import dataclasses
import importlib
import re
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as AnySequence
from functools import partial
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser
from lightning.pytorch import Callback

import elf.callbacks
import elf.datamodules
import elf.modules
from elf.cli import COMMANDS
from elf.errors import ElfError
from elf.plan import PlanCLI
from elf.trainer import DOES, ElfCLI

TRAINED = tuple(name for name in DOES if name not in ("prepare", "plan"))
"""Commands that LightningCLI runs."""
SHARED = ("seed_everything", "logger")
"""Keys that all of these have, beside those of the trainer."""
LONGEST = 120
"""Characters of a default that are shown."""
WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "anything"}
OWN = {
    "trainer.logger": "Left out, `logger` decides; a logger's class otherwise.",
    "trainer.default_root_dir": "The run's folder; left out, `models/` and the config's name.",
    "weights_only": "Left out: Elf's checkpoints are read as tensors and plain values alone.",
}
"""What Elf makes of keys that Lightning documents otherwise."""


@dataclasses.dataclass(frozen=True)
class Option:
    """A key.

    Attributes:
        name: As it is written on the command line, without dashes.
        hint: Its type.
        default: Its value if it is left out.
        required: Whether it must be given.
        words: What it is, as Markdown.
    """

    name: str
    hint: Any
    default: Any
    required: bool
    words: str


class _Made(Exception):
    """The parsers are made; nothing is to be parsed."""

    def __init__(self, cli: Any) -> None:
        super().__init__()
        self.cli = cli


class _Parsers(ElfCLI):
    """LightningCLI up to where it would parse."""

    def parse_arguments(self, parser: Any, args: Any) -> None:
        raise _Made(self)


class _PlanParsers(_Parsers, PlanCLI):
    """The same of ``elf plan``."""


def _made(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except _Made as made:
        return made.cli


def options(parser: Any) -> list[Option]:
    """Return the keys that a parser takes, less those that only show or read something."""
    found = []
    for action in parser._actions:
        if action.default == argparse.SUPPRESS or isinstance(action, ActionConfigFile):
            continue
        required = action.required or action.dest in getattr(parser, "required_args", ())
        words = OWN.get(action.dest) or as_markdown(action.help or "")
        found.append(Option(action.dest, _hint(action), action.default, required, words))
    return found


def _hint(action: Any) -> Any:
    if isinstance(action, argparse._StoreTrueAction):
        return bool
    hint = getattr(action, "_typehint", None) or action.type or str
    if action.choices:
        hint = Literal[tuple(action.choices)]
    return list[hint] if isinstance(action, argparse._AppendAction) else hint


def class_options(kind: type) -> list[Option]:
    """Return the keys of a class, those of the records in it by their whole names."""
    parser = ArgumentParser()
    parser.add_class_arguments(kind)
    return options(parser)


def records(found: Iterable[Option]) -> list[type]:
    """Return Elf's dataclasses that stand in types, whose keys no parser lists; inner ones too."""
    seen: dict[type, None] = {}
    waiting = [kind for option in found for kind in _inside(option.hint)]
    while waiting:
        kind = waiting.pop(0)
        if kind not in seen:
            seen[kind] = None
            waiting += [inner for each in class_options(kind) for inner in _inside(each.hint)]
    return list(seen)


def _inside(hint: Any) -> Iterator[type]:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if hint.__module__.startswith("elf."):
            yield hint
    for inner in get_args(hint) if get_origin(hint) is not Literal else ():
        yield from _inside(inner)


def type_words(hint: Any) -> str:
    """Return a type as a reader of YAML would say it."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is None or hint is NoneType:
        return "null"
    if hint in WORDS:
        return WORDS[hint]
    if origin is Literal:
        return " | ".join(f"`{value}`" for value in inner)
    if origin in (Union, UnionType):
        parts = dict.fromkeys(map(type_words, sorted(inner, key=lambda each: each is NoneType)))
        return " | ".join(parts)
    if origin is dict:
        return f"mapping of {type_words(inner[0])} to {type_words(inner[1])}"
    if isinstance(origin, type) and issubclass(origin, AnySequence | set | Iterable):
        kinds = dict.fromkeys(type_words(each) for each in inner if each is not Ellipsis)
        return f"list of {' and '.join(kinds)}"
    if origin is Callable or origin is getattr(Callable[[], Any], "__origin__", None):
        made = get_args(hint)[1]
        return f"class_path of a class: {type_words(made)}"
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return f"`{hint.__name__}`"
    if isinstance(hint, type):
        return WORDS.get(hint, f"`{hint.__name__}`")
    return str(hint).replace("typing.", "")


def default_words(option: Option) -> str:
    """Return a default as it would stand in YAML."""
    value = option.default
    if option.required:
        return "must be given"
    text = yaml.safe_dump(_plain(value), default_flow_style=True, allow_unicode=True, width=10**6)
    text = text.strip().removesuffix("...").strip()
    return f"`{text}`" if len(text) <= LONGEST else f"`{text[:LONGEST]}` … (`--print_config`)"


def _plain(value: Any) -> Any:
    """Return a default in the values that YAML has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = vars(value)
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    return value if isinstance(value, str | int | float | None) else str(value)


def as_markdown(text: str) -> str:
    """Return a docstring's text as Markdown on one line: code stays code, the rest is escaped."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r":\w+:`~?([^`<]+)`", lambda match: f"``{match[1].split('.')[-1]}``", text)
    text = re.sub(r"`([^`]+?) <(https?://[^>]+)>`_+", r"\1 (``\2``)", text)
    text = re.sub(r"\s*Defaults?( to|:) ``[^`]+``\.?", "", text)
    pieces = re.split(r"(``.+?``|`[^`]+`)", text)
    for place, piece in enumerate(pieces):
        if place % 2:
            pieces[place] = f"`{piece.strip('`')}`"
        else:
            pieces[place] = re.sub(r"([\\*_<>\[\]#$])", r"\\\1", piece)
    return "".join(pieces).strip()


def entry(option: Option, owner: str) -> str:
    """Return a key's place on a page.

    Args:
        option: The key.
        owner: What it belongs to, which tells its anchor from that of its namesakes.
    """
    lines = [
        f"```{{confval}} {owner}{option.name}",
        f":type: {type_words(option.hint)}",
        f":default: {default_words(option)}",
        "",
        option.words or "",
        "```",
    ]
    return "\n".join(lines)


def section(title: str, words: str, found: Iterable[Option], owner: str, level: int = 2) -> str:
    """Return a heading, what it is about, and its keys."""
    entries = [entry(option, owner) for option in found]
    return "\n\n".join([f"{'#' * level} {title}", words, *entries])


def _summary(kind: type) -> str:
    text = (kind.__doc__ or "").strip().split("\n\n")[0]
    return as_markdown(text)


def command_parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the commands that LightningCLI does not run, by name.

    Raises:
        ElfError: If one has no ``make_parser``.
    """
    found = {}
    for name, command in COMMANDS.items():
        if name in DOES:
            continue
        module = importlib.import_module(command.module)
        if not hasattr(module, "make_parser"):
            raise ElfError(
                f"{command.module}: no make_parser(), so that `elf {name}` has no place in the "
                "configuration reference; let it return the command's parser"
            )
        found[name] = module.make_parser()
    return found


def commands_page() -> str:
    """Return the options of the commands that need no trainer."""
    parts = []
    for name, parser in command_parsers().items():
        found = options(parser)
        does = as_markdown(parser.description or "")
        parts.append(section(f"elf {name}", does, found, f"elf {name} --"))
        parts += [
            section(kind.__name__, _summary(kind), class_options(kind), f"{kind.__name__}.", 3)
            for kind in records(found)
        ]
    return "\n\n".join(parts)


def trainer_page() -> str:
    """Return the keys that the commands with a trainer have in common, and each one's own."""
    # a command's arguments make its own parser alone
    parsers = {n: _made(partial(_Parsers, [n]))._subcommand_parsers[n] for n in TRAINED}
    found = options(parsers["fit"])
    trainer = [each for each in found if each.name.startswith("trainer.")]
    shared = [each for each in found if each.name in SHARED]
    parts = [
        section(
            "Every command", "`fit`, `validate`, `test`, `predict`, `prepare`, `plan`:", shared, ""
        ),
    ]
    for name in TRAINED:
        own = [each for each in options(parsers[name]) if not _is_common(each)]
        parts.append(section(f"elf {name}", as_markdown(DOES[name]), own, f"elf {name} --"))
    plan = _made(lambda: _PlanParsers([])).parser
    own = [each for each in options(plan) if not _is_common(each)]
    parts.append(section("elf plan", as_markdown(DOES["plan"]), own, "elf plan --"))
    parts.append(
        section("The trainer", "Lightning's `Trainer`, in Lightning's words:", trainer, "")
    )
    return "\n\n".join(parts)


def _is_common(option: Option) -> bool:
    return option.name.startswith("trainer.") or option.name in (*SHARED, "model", "data")


def classes_page(kinds: Iterable[type]) -> str:
    """Return the keys of classes, and of the records that stand in their keys."""
    parts, inner = [], {}
    for kind in kinds:
        found = class_options(kind)
        parts.append(section(kind.__name__, _summary(kind), found, f"{kind.__name__}."))
        inner |= dict.fromkeys(records(found))
    if inner:
        parts.append("## Records\n\nWhat stands in lists, or in the place of a null above.")
    for kind in inner:
        found = class_options(kind)
        parts.append(section(kind.__name__, _summary(kind), found, f"{kind.__name__}.", 3))
    return "\n\n".join(parts)


def public(package: Any, base: type = object) -> list[type]:
    """Return the classes that a package shows, with keys of their own."""
    shown = [getattr(package, name) for name in package.__all__]
    classes = [each for each in shown if isinstance(each, type) and issubclass(each, base)]
    return [each for each in classes if class_options(each)]


PAGES: dict[str, Callable[[], str]] = {
    "commands": commands_page,
    "trainer": trainer_page,
    "models": lambda: classes_page(public(elf.modules)),
    "data": lambda: classes_page(public(elf.datamodules)),
    "callbacks": lambda: classes_page(public(elf.callbacks, Callback)),
}
"""What makes each page, by the word in its ``<!-- configuration: … -->``."""
