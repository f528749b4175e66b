"""Which layers of a network a configuration names, and what each of them gets."""

import difflib
import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from elf.adapters.config import AdapterConfig, AdapterGroup
from elf.adapters.presets import TEXT_ENCODERS, Part, canonical, taken
from elf.errors import ElfError


@dataclass(frozen=True)
class LayerValues:
    """What one adapted layer gets.

    Attributes:
        rank: Of its update.
        alpha: Numerator of its scale.
        lr_scale: Factor on the learning rate.
    """

    rank: int
    alpha: float
    lr_scale: float


def matches(pattern: str, name: str) -> bool:
    """Whether a module's name is one that a pattern names: its end, a glob, or ``re:`` and a regex.

    Raises:
        ElfError: If the regular expression is none.
    """
    if pattern.startswith("re:"):
        try:
            return re.fullmatch(pattern[3:], name) is not None
        except re.error as error:
            raise ElfError(
                f"model.adapter: {pattern!r} is no regular expression ({error}); "
                "a glob such as mid_block.* needs no re:"
            ) from None
    if any(character in pattern for character in "*?["):
        return fnmatch.fnmatchcase(name, pattern)
    return name == pattern or name.endswith("." + pattern)


def obstacle(module: nn.Module) -> str | None:
    """Return why a module cannot carry an adapter, or None if it can."""
    if isinstance(module, nn.Conv2d):
        return f"Conv2d with {module.groups} groups" if module.groups > 1 else None
    return None if isinstance(module, nn.Linear) else type(module).__name__


def target_names(network: nn.Module, config: AdapterConfig, part: Part) -> list[str]:
    """Return the names of the layers that get an adapter, in the network's order.

    Raises:
        ElfError: If a pattern matches nothing, with the nearest names, or nothing that can carry an
            adapter.
    """
    of_text = part in TEXT_ENCODERS
    key = "model.adapter.text_targets" if of_text else "model.adapter.targets"
    wanted = config.text_targets if of_text else config.targets
    modules = {canonical(name): module for name, module in network.named_modules() if name}
    able = [name for name, module in modules.items() if obstacle(module) is None]
    if wanted is None:
        return []
    if isinstance(wanted, str):
        found = taken(part, wanted, able)
        if not found:
            raise ElfError(
                f"{key}: {type(network).__name__} has no layer of the preset {wanted}; "
                f"give a list of names, such as [{', '.join(_ends(able)[:4])}]"
            )
    else:
        found = set()
        for pattern in wanted:
            found |= _matched(key, pattern, modules, able)
        if not found:
            raise ElfError(f"{key}: the list is empty; name layers, or a preset: attention")
    return [name for name, _ in network.named_modules() if canonical(name) in found]


def _matched(key: str, pattern: str, modules: Mapping[str, nn.Module], able: list[str]) -> set[str]:
    found = {name for name in able if matches(pattern, name)}
    if found:
        return found
    others = [name for name in modules if matches(pattern, name)]
    if others:
        raise ElfError(
            f"{key}: {pattern!r} matches only what can carry no adapter "
            f"({others[0]}: {obstacle(modules[others[0]])}); name linear layers or convolutions"
        )
    parts = [name.split(".") for name in able]
    ends = {".".join(words[start:]) for words in parts for start in range(len(words))}
    near = difflib.get_close_matches(pattern, sorted(ends), 3)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(_ends(able))}"
    raise ElfError(f"{key}: no layer is named {pattern!r}; {hint}")


def _ends(names: Iterable[str]) -> list[str]:
    """Return the last words of names that are no numbers, each once: ``to_q``, ``to_out.0``."""
    return sorted({re.split(r"\.(?=[A-Za-z_])", name)[-1] for name in names})


def group_matches(group: AdapterGroup, name: str, part: Part) -> bool:
    """Whether a group takes a layer, by its name in the network or in the pipeline."""
    name = canonical(name)
    return matches(group.pattern, name) or matches(group.pattern, f"{part}.{name}")


def layer_values(config: AdapterConfig, names: Iterable[str], part: Part) -> dict[str, LayerValues]:
    """Return what each layer gets: the first group that takes it decides."""
    values = {}
    for name in names:
        group = next((g for g in config.groups if group_matches(g, name, part)), AdapterGroup(""))
        rank = config.rank if group.rank is None else group.rank
        alpha = config.alpha if group.alpha is None else group.alpha
        values[name] = LayerValues(rank, rank if alpha is None else alpha, group.lr_scale)
    return values


def unused_groups(config: AdapterConfig, names: Mapping[Part, Iterable[str]]) -> list[str]:
    """Return the patterns of groups that decide nothing, given the adapted layers of each part."""
    used = set()
    for part, layers in names.items():
        for name in layers:
            fits = (i for i, group in enumerate(config.groups) if group_matches(group, name, part))
            used.add(next(fits, None))
    return [group.pattern for i, group in enumerate(config.groups) if i not in used]
