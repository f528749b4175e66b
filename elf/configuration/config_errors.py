"""Configuration errors in one line: the key, the value, the file, the nearest known name."""

import contextlib
import dataclasses
import difflib
import inspect
import os
import re
import sys
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path

from elf.configuration.kohya import KEYS, UNNEEDED
from elf.errors import ElfError
from elf.resources import shipped

ALLOWED = (
    "elf",
    "lightning.pytorch",
    "torch.optim",
    "transformers.optimization",
    "transformers.Adafactor",
    "bitsandbytes.optim",
    "prodigyopt",
    "schedulefree",
)
"""What a ``class_path`` in a YAML may name: a file from a stranger can import nothing else."""

_UNKNOWN = re.compile(
    r"(?:Group '([\w.]+)' does not accept option|Option|does not accept option) '([\w.]+)'"
    r"|unrecognized arguments: --([\w.-]+)"
)
_ALONE = re.compile(r"unrecognized arguments: (.+)")
_REQUIRED = re.compile(r"required: (?:(?:fit|validate|test|predict)\.)?([\w.]+)")
_DENIED = re.compile(r"Importing '([^']+)' is not allowed")
_NO_CLASS = re.compile(r"Expected a dot import path string: (\S+)|Import path (\S+) does not")
_NO_CALLABLE = re.compile(
    r"a callable class: (?:module '[^']+' has no attribute '[^']+'|No module named '([^']+)')\. "
    r"Got value: \w+\(class_path='([^']+)'"
)
_EXTRAS = {"bitsandbytes": "elf[8bit]"}
"""What installs a library that Elf does without."""
_YAML = re.compile(r"Problems parsing config: (.*)", re.DOTALL)
_NO_MAPPING = re.compile(r"Unexpected config: (.*)", re.DOTALL)
_NO_FILE = re.compile(r"(?:File does not exist|Path is not a file): '([^']+)'")
_NO_VALUE = re.compile(r"argument (?:-\w/)?--([\w.]+): expected (?:one|at least one) argument")
_NO_CONFIG = re.compile(r'Unable to load config "([^"]*)"')
_OF_CLASS = re.compile(r"class_path '(?:\w+\.)*(\w+)'")
_KEY = re.compile(r'Parser key "([^"]+)":')
_EXPECTED = re.compile(r"Expected an? (.+?)(?:\. Got value: (.*))?$", re.MULTILINE)
_GIVEN = re.compile(r"Given value: (.*)")
_NO_OBJECT = re.compile(r"Not a valid subclass of (\w+)(?:\. Got value: (.*))?")
_NO_INIT_ARGS = re.compile(
    r"(?:class_path '([^']+)':\s+|callable class: )'\w+' object has no attribute 'keys'"
)
_UNSAID = ("typing.", "lightning.")
"""What the parser takes for the class where none is named."""


def missing(key: str) -> str:
    """Return what is said of a key that must be given."""
    if key in ("model", "data"):  # whole blocks
        return f"{key!r} is required: give a config that has it (--config FILE); see configs"
    return f"{key!r} is required: give it in a config (--config FILE) or as --{key} VALUE"


def explain(
    message: str,
    files: Iterable[str],
    known: Iterable[str],
    arguments: Iterable[str] = (),
    broken: Iterable[str] = (),
) -> str:
    """Return a parser's error message as one line.

    Args:
        message: What jsonargparse said; each level of nesting adds some lines.
        files: The configuration files that were given, searched for the offending key.
        known: Names of options and classes, among which the nearest to an unknown one is.
        arguments: Of the command line: what stands there is no file's fault.
        broken: Those of the files that are no YAML, if that is known.
    """
    files, known, arguments = list(files), set(known), list(arguments)
    keys = [key for key in _KEY.findall(message) if key != "config"]
    if match := _UNKNOWN.search(message):
        group, name = (match[1] or "", match[2]) if match[2] else ("", match[3])
        key = ".".join(part for part in (*keys, group, name) if part)
        parts = name.split(".")
        last = next((part for part in parts if part not in known), parts[-1])
        given = any(part[2:].partition("=")[0].endswith(name) for part in arguments)
        where = "" if given else place_of(last, files)
        hint = _kohya(last, key, known) or _nearest(last, known) or _shown(known)
        return f"unknown key {key!r}{where}{hint}"
    if match := _NO_VALUE.search(message):
        return f"--{match[1]} has no value: give one, as in --{match[1]} VALUE"
    if match := _ALONE.search(message):
        word = match[1].split()[0]
        before = dict(zip(arguments[1:], arguments, strict=False)).get(word, "")
        if word.lower() in ("true", "false", "yes", "no") and before.startswith("--"):
            return f"{before} takes no value: leave {word!r} out, or leave out both"
        alone = f"{match[1][:80]!r} stands alone: name the key that it is for, as in --KEY VALUE"
        quoted = "; a pattern of files needs quotes, as in --ckpt_path '*.ckpt'"
        return alone + quoted * match[1].endswith(".ckpt")
    if match := _REQUIRED.search(message):
        if "trainer.callbacks" in keys:
            owner = (_OF_CLASS.findall(message) or ["the callback"])[-1]
            return f"trainer.callbacks: {owner} needs {match[1]!r}; give it among its init_args"
        return missing(".".join([*keys, match[1]]))
    if match := _DENIED.search(message):
        if match[1].startswith(_UNSAID) and not place_of(match[1], files):
            key = ".".join(keys)
            return f"{key}: init_args without a class_path{place_of(key, files)}; give it, too"
        return (
            f"{'.'.join(keys)}: {match[1]!r} must not be imported{place_of(match[1], files)}; "
            f"a class_path can name what is in {', '.join(ALLOWED)}"
        )
    if match := _NO_CALLABLE.search(message):
        key, library = ".".join(keys), match[1]
        where = place_of(match[2], files)
        if library is None:
            module, _, last = match[2].rpartition(".")
            there = {f"{module}.{name}" for name in dir(sys.modules.get(module, None))}
            hint = _nearest(match[2], there) or f"; name one of {module}"
            return f"{key}: no class {match[2]!r}{where}{hint}"
        package = _EXTRAS.get(library, library)
        return f"{key}: {library} is not installed{where}: pip install '{package}'"
    if match := _NO_CLASS.search(message):
        name = match[1] or match[2]
        where = "" if any(name in part for part in arguments) else place_of(name, files)
        if "/" in name:
            return f"{'.'.join(keys)}: expected a mapping (KEY: VALUE), got {name!r}{where}"
        hint = _nearest(name, known)
        if name in known:
            hint = "; it is of another kind"
        elif not hint and "." not in name:
            hint = "; name it with its package, as in torch.optim.AdamW"
        return f"{'.'.join(keys)}: no class {name!r} fits there{where}{hint}"
    if match := _YAML.search(message):
        reason = " ".join(match[1].replace('in "<unicode string>", ', "").split())
        way = "indent with blanks, not tabs" if "any token" in reason else "mend it there"
        return f"{', '.join(list(broken) or files)} is not valid YAML: {reason[:250]}; {way}"
    if match := _NO_MAPPING.search(message):
        text = match[1].strip()
        of_text = [path for path in files if Path(path).read_text(encoding="utf-8").strip() == text]
        where = of_text[0] if of_text else "a config"
        return f"{where}: expected lines of KEY: VALUE, got {text[:40]!r}"
    if match := _NO_FILE.search(message):
        return _no_file(match[1], files)
    if keys and (match := _NO_CONFIG.search(message)):
        own = [key for number, key in enumerate(keys) if number == 0 or key != keys[number - 1]]
        key = ".".join(own)
        if len(parts := key.split(".")) > 1 and parts[-1] == parts[-2]:
            key = key.rpartition(".")[0]
        return f"{key}: expected a mapping (KEY: VALUE), got {match[1]!r}{place_of(key, files)}"
    if keys:
        inner = message[[match.end() for match in _KEY.finditer(message)][-1] :]
        names = {part[2:].partition("=")[0].rsplit(".", 1)[-1] for part in arguments}
        own = [] if keys[-1].rsplit(".", 1)[-1] in names else files
        return _value_error(".".join(keys), inner, own)
    return " ".join(message.split())[:300]


@contextlib.contextmanager
def refuse_circular(files: Iterable[str]) -> Iterator[None]:
    """Refuse a configuration whose values hold themselves, as YAML's aliases allow.

    Raises:
        ElfError: In place of a ``RecursionError``.
    """
    try:
        yield
    except RecursionError:
        raise ElfError(
            f"{', '.join(files)}: a value holds itself (an alias within its own anchor), or is "
            "nested too deeply; write it out"
        ) from None


def known_names(classes: Iterable[type]) -> set[str]:
    """Return some classes' names and those of their options, nested dataclasses included."""
    classes = list(classes)
    options = {name for cls in classes for name in _options(cls, set())}
    return options | {cls.__name__ for cls in classes}


def _options(cls: type, seen: set[type]) -> Iterator[str]:
    if cls in seen:
        return
    seen.add(cls)
    try:
        hints = typing.get_type_hints(inspect.unwrap(vars(cls).get("__init__", object.__init__)))
    except (NameError, TypeError):
        hints = {}
    for name in inspect.signature(cls).parameters:
        yield name
        for inner in (hints.get(name), *typing.get_args(hints.get(name))):
            if isinstance(inner, type) and dataclasses.is_dataclass(inner):
                yield from _options(inner, seen)


def _no_file(path: str, files: list[str]) -> str:
    """Return what is said of a configuration file that is none, as it was typed."""
    typed = Path(next((file for file in files if os.path.abspath(file) == path), path))
    if typed.is_dir():
        return f"config: {typed} is a folder; name a file in it"
    folders = (typed.parent, shipped(typed.parent.as_posix()))
    names = [path.name for folder in folders for path in sorted(folder.glob("*.yaml"))]
    near = difflib.get_close_matches(typed.name, names, n=1)
    way = f"did you mean {typed.with_name(near[0])}?" if near else "give one that is there"
    return f"config: no file {typed}; {way}"


def _value_error(key: str, reason: str, files: list[str]) -> str:
    name = key.rsplit(".", 1)[-1]
    wanted, got = [], ""
    for expected, value in _EXPECTED.findall(reason):
        got = got or value
        expected = expected.partition(", but got")[0]
        expected = expected.replace("import path or a subclass spec", "class_path and init_args")
        plain = re.sub(r"<class '(?:\w+\.)*(\w+)'>|typing\.", lambda m: m[1] or "", expected)
        if literal := re.fullmatch(r"Literal\[(.*)\]", plain):
            wanted += [value.strip("'\"") for value in literal[1].split(", ")]
        elif plain != "NoneType" and not plain.startswith("path but"):
            wanted.append("list" if plain == "tuple" else plain)
    if not got and (match := _GIVEN.search(reason)):
        got = match[1]
    if not wanted and (match := _NO_INIT_ARGS.search(reason)):
        owner = match[1] or "a class"
        return f"{key}: init_args of {owner} that are no mapping{place_of(name, files)}"
    if not wanted and (match := _NO_OBJECT.search(reason)):
        wanted, got = [match[1]], match[2] or got
    if not wanted:
        return f"{key}: {' '.join(reason.split())[:200]}{place_of(name, files)}"
    near = difflib.get_close_matches(got, set(wanted) - {"list"}, n=1, cutoff=0.8)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if not hint and "list" in wanted and re.fullmatch(r"[\w./-]+", got):
        hint = f"; write [{got}]"
    return f"{key}: expected {' or '.join(wanted)}, got {got[:80]}{place_of(name, files)}{hint}"


def _nearest(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near and near != [name] else ""


def _shown(known: set[str]) -> str:
    option = "--print_config" if "trainer" in known else "--help"
    return f"; {option} shows the keys that there are"


def _kohya(name: str, key: str, known: set[str]) -> str:
    """Return what a training's key is called in full, or a flag of kohya's scripts here."""
    whole = [path for path in KEYS.values() if path.endswith(f".{name}")]
    if whole and key == name and "trainer" in known:
        return f"; its whole name is {whole[0]!r}"
    if name in UNNEEDED and "trainer" in known:
        return f"; kohya's {name} is not needed here: {UNNEEDED[name]}"
    here = KEYS.get(name)
    if here is None or here == key or "trainer" not in known:
        return ""
    return f"; kohya's {name} is {here!r} here"


def place_of(name: str, files: Iterable[str]) -> str:
    """Return the place of a name in the config files: the first line on which it stands.

    Args:
        name: The name; of a key, its last part is looked for.
        files: The configuration files.

    Returns:
        ``" in FILE, line N"``; an empty string if it stands in none of them.
    """
    word = re.compile(rf"(?<![\w.]){re.escape(name.rsplit('.', 1)[-1])}(?!\w)")
    for file in reversed(list(files)):  # a later one wins
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        for number, line in enumerate(lines, 1):
            if word.search(re.sub(r"(^|\s)#.*", "", line)):
                return f" in {file}, line {number}"
    return ""
