"""Models and data: those that ship with Elf, and those that a config names."""

import os
from pathlib import Path

from elf.doctor.finding import Finding, broken, good, note
from elf.doctor.hub import cache_folder, cached_models, is_offline
from elf.doctor.needs import Needs
from elf.pretrained import expanded, is_local
from elf.resources import find, shipped

SHIPPED = ("base/model_index.json", "tagger/model.onnx", "captioner/config.json",
           "clip/config.json", "language/config.json", "probe/probe.safetensors")  # fmt: skip
PREPARED = ("prepared.json", "meta.json")
MADE = ("data.shards", "data.tokens")
"""What `elf prepare` makes."""
RECOGNISED = ("model_index.json", "config.json", "model.onnx")
AGAIN = "pip install --force-reinstall --no-deps elf, or `git checkout models/tiny`"


def check(needs: Needs) -> list[Finding]:
    """Look whether they are there; none is loaded."""
    folder = shipped("models/tiny")
    missing = [name for name in SHIPPED if not (folder / name).is_file()]
    found = [judge_shipped(folder, missing)]
    if needs.config:
        models = {"model.base": needs.base} if needs.base else {}
        cached, offline = cached_models(cache_folder()), is_offline(os.environ)
        found.append(judge_models(models | needs.models, cached, offline))
        found.append(judge_data(needs.places))
    return found


def judge_shipped(folder: Path, missing: list[str]) -> Finding:
    """Say whether the tiny models are there, on which ``elf quickstart`` runs."""
    facts = {"folder": str(folder), "missing": missing}
    if missing:
        return broken("models", f"{folder} has no {missing[0]}", AGAIN, **facts)
    return good("models", f"the tiny ones, for `elf quickstart`, in {folder}", **facts)


def judge_models(models: dict[str, str], cached: list[str], offline: bool) -> Finding:
    """Say whether the models that a config names are on this machine.

    Args:
        models: Hub names or paths, by their keys.
        cached: Hub names of those in the hub client's cache.
        offline: Whether the hub client is told to stay off the network.
    """
    check, to_fetch = "config.models", []
    for key, name in models.items():
        if is_local(found := find(name)):
            if said := _wrong(expanded(found)):
                do = f"give an existing folder or file, or a hub name (owner/name), to {key}"
                return broken(check, f"{key} {name}: {said}", do, models=models)
        elif name not in cached:
            to_fetch.append(name)
    facts = {"models": models, "to_fetch": to_fetch}
    if to_fetch and offline:
        do = f"without HF_HUB_OFFLINE: hf download {to_fetch[0]}"
        said = f"{', '.join(to_fetch)}: not on this machine, and HF_HUB_OFFLINE is set"
        return broken(check, said, do, **facts)
    if to_fetch:
        do = "; ".join(f"hf download {name}" for name in to_fetch)
        said = f"{', '.join(to_fetch)}: not on this machine, fetched at first use"
        return note(check, said, do, **facts)
    return good(check, f"{', '.join(models.values()) or 'none named'}: on this machine", **facts)


def _wrong(path: Path) -> str:
    """Return what is wrong with a model's path; nothing if it may be one."""
    if path.is_dir() and not any((path / name).is_file() for name in RECOGNISED):
        return f"holds none of {', '.join(RECOGNISED)}"
    return "" if path.exists() else "is not there"


def judge_data(places: dict[str, list[str]]) -> Finding:
    """Say whether the data that a config names is there, or what makes it."""
    check, facts = "config.data", {"places": places}
    made = [place for key in MADE for place in places.get(key, [])]
    for place in made:
        if "://" in place:
            return good(check, f"{place}, a URL: not asked", **facts)
        if any((Path(place) / name).is_file() for name in PREPARED):
            return good(check, f"prepared, in {place}", **facts)
    written = {*MADE, "data.labels"} if "data.root" in places else {*MADE}
    sources = {key: paths for key, paths in places.items() if key not in written}
    for key, paths in sources.items():
        for path in paths:
            if not expanded(path).exists():
                do = "elf predict, with its own config" if key == "data.labels" else (
                    f"put something there, or name another place by {key}"
                )  # fmt: skip
                return broken(check, f"{key}: {path} is not there", do, **facts)
    if made and not sources:
        do = "elf prepare, with the training's config"
        return broken(check, f"{made[0]} is not prepared", do, **facts)
    named = ", ".join(path for paths in sources.values() for path in paths)
    return good(check, named or "none named", **facts)
