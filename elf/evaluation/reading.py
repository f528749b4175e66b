"""Reads ``metrics.json``, and says in one line what is wrong with a file that is not one."""

import dataclasses
import json
import math
import types
from collections import Counter
from collections.abc import Sequence, Sized
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Union, get_args, get_origin, get_type_hints

from elf.errors import ElfError
from elf.evaluation.schema import SCHEMA, TEXT, Found, Metrics, TextMetrics
from elf.files import write_atomic

NAME = "metrics.json"
REMEDY = "run `elf test` again, which writes it anew"


def read_metrics(folder: Path) -> Metrics | TextMetrics:
    """Read and check what `elf test` found.

    Raises:
        ElfError: If the file is missing, damaged, of another schema, or contradicts itself.
    """
    path = folder / NAME
    try:
        # NaN and infinity are no JSON, but Python writes them: they say that there is no value
        found = json.loads(path.read_text("utf-8"), parse_constant=lambda _: None)
    except FileNotFoundError:
        raise ElfError(
            f"{path}: there is no such file; give the folder that `elf test` wrote"
        ) from None
    except OSError as error:
        raise ElfError(f"{path}: cannot be read ({error.strerror or error}); {REMEDY}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8 is a ValueError too
        raise ElfError(f"{path}: damaged ({error}); {REMEDY}") from None
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA or isinstance(schema, bool):
        raise ElfError(f"{path}: schema is {schema!r}, this Elf reads {SCHEMA}; {REMEDY}")
    try:
        kind = found.get("kind")
        if kind not in (None, TEXT):
            raise _Wrong(f"kind is {_short(kind)}, this Elf reads {TEXT!r} or none, of pictures")
        metrics: Metrics | TextMetrics = _built(Metrics if kind is None else TextMetrics, found, "")
        _check(metrics)
    except _Wrong as wrong:
        raise ElfError(f"{path}: {wrong}; {REMEDY}") from None
    return metrics


class _Wrong(Exception):
    """What is wrong, and where in the file."""


def _built(kind: Any, value: Any, where: str) -> Any:
    """Make a value of a type from what JSON has: dataclasses, tuples, dicts, and plain values."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else _built(inner[0], value, where)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise _Wrong(f"{where or 'the file'} is {_short(value)}, not an object")
        hints, place = get_type_hints(kind), f"{where}." if where else ""
        given = {}
        for field in dataclasses.fields(kind):
            if field.name in value:
                given[field.name] = _built(hints[field.name], value[field.name], place + field.name)
            elif field.default is dataclasses.MISSING:
                raise _Wrong(f"{place}{field.name} is missing")
        return kind(**given)  # type: ignore[operator]
    if origin is tuple:
        if not isinstance(value, list):
            raise _Wrong(f"{where} is {_short(value)}, not a list")
        return tuple(_built(inner[0], each, f"{where}[{n}]") for n, each in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise _Wrong(f"{where} is {_short(value)}, not an object")
        return {_text(key): _built(inner[1], each, f"{where}.{key}") for key, each in value.items()}
    return _plain(kind, value, where)


def _plain(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    good = isinstance(value, int | float if kind is float else kind)
    if not good or (isinstance(value, bool) and kind is not bool):
        names = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}
        raise _Wrong(f"{where} is {_short(value)}, not {names[kind]}")
    if kind is str:
        return _text(value)
    if kind is float:
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise _Wrong(f"{where} is infinite")
    return value


def _text(value: str) -> str:
    """Return a text that UTF-8 can hold: JSON can name half a character."""
    return value.encode("utf-8", "replace").decode("utf-8")


def _short(value: Any) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 60 else shown[:57] + "…"


def _check(metrics: Metrics | TextMetrics) -> None:
    """Whether its parts fit together."""
    names = [variant.name for variant in metrics.variants]
    if not any(variant.adapter is None for variant in metrics.variants):
        raise _Wrong("variants has no base, which is the one whose adapter is null")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise _Wrong(f"variants has {twice[0]!r} twice")
    text = isinstance(metrics, TextMetrics)
    for where in ("rows", "answers") if text else ("rows", "pictures", "nearest", "loss"):
        for number, each in enumerate(getattr(metrics, where)):
            skipped = where == "rows" and each.skipped  # of no variant in particular
            if not skipped and each.variant not in metrics.by_name:
                raise _Wrong(f"{where}[{number}] is of {each.variant!r}, which is no variant")
    if isinstance(metrics, TextMetrics):
        for number, answer in enumerate(metrics.answers):
            _check_place(f"answers[{number}].prompt", answer.prompt, metrics.prompts)
    else:
        _check_pictures(metrics)


def _check_pictures(metrics: Metrics) -> None:
    plan = metrics.plan
    if len(plan.triggered) != len(plan.prompts):
        raise _Wrong(
            f"plan has {len(plan.prompts)} prompts, but {len(plan.triggered)} in triggered"
        )
    for where in ("pictures", "nearest"):
        for number, each in enumerate(getattr(metrics, where)):
            _check_place(f"{where}[{number}].prompt", each.prompt, plan.prompts)
            file = each.file if where == "pictures" else each.training
            if not _inside(file):
                raise _Wrong(f"{where}[{number}] names {file!r}, which is outside of the folder")


def _check_place(where: str, place: int, of: Sized) -> None:
    if not 0 <= place < len(of):
        what = where.rpartition(".")[2]
        raise _Wrong(f"{where} is {place}, of {len(of)} {what}s")


def _inside(name: str) -> bool:
    """Whether a relative path stays below where it begins, on any system."""
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return not any(path.anchor or ".." in path.parts for path in paths) and "\0" not in name


def what_is_replaced(folder: Path, names: Sequence[str]) -> str:
    """Return a line that says whose report is replaced by one of other adapters; or nothing.

    Args:
        folder: Where both go.
        names: Of the adapters that are evaluated now.
    """
    try:
        before = read_metrics(folder).adapters
    except ElfError:  # there is none
        return ""
    if set(before) == set(names):
        return ""
    return (
        f"{folder} holds a report of {', '.join(before)}, whose place this one takes; "
        "--trainer.default_root_dir keeps both"
    )


def write_metrics(folder: Path, metrics: Found) -> None:
    """Write what `elf test` found; the same gives the same bytes."""
    values = {"schema": SCHEMA, **dataclasses.asdict(metrics)}
    write_atomic(folder / NAME, json.dumps(values, indent=2, allow_nan=False) + "\n")
