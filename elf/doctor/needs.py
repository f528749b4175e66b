"""What a config needs of the machine, read from its YAML alone: nothing of it is imported."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elf.errors import ElfError
from elf.resources import find

PLACES = ("root", "pictures", "labels", "shards", "tokens", "files")
"""Of a config's data, what names folders and files."""


@dataclass(frozen=True)
class Needs:
    """What is needed beyond what every command needs; nothing without a config.

    Attributes:
        config: Whether a config was given.
        base: Hub name, folder or file of the base model.
        models: Hub names or folders of other models, by their keys.
        places: Folders and files of the data, by their keys.
        run: The run's folder.
        gpu: The key and value that cannot be had without a GPU, in words.
        devices: How many processes, on a GPU each if there is one.
        bf16: Whether the precision is bf16 on a GPU.
        bitsandbytes: The key and value that need it, in words.
        cuda_tagger: Whether the tagger may run by onnxruntime on CUDA alone.
        workers: Processes that load data.
    """

    config: bool = False
    base: str | None = None
    models: dict[str, str] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)
    run: str | None = None
    gpu: str | None = None
    devices: int = 0
    bf16: bool = False
    bitsandbytes: str | None = None
    cuda_tagger: bool = False
    workers: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, from which it can be made again."""
        return dataclasses.asdict(self)


def read_needs(files: Iterable[str]) -> Needs:
    """Return what configs need, of which later ones win.

    Raises:
        ElfError: If a file cannot be read, or is no mapping in YAML.
    """
    names = [find(name) for name in files]
    if not names:
        return Needs()
    import yaml  # not above: a doctor must come where it is missing

    merged: dict[str, Any] = {}
    for name in names:
        try:
            content = yaml.safe_load(Path(name).read_text("utf-8"))
        except OSError as error:
            raise ElfError(f"--config: {name} cannot be read ({error.strerror})") from None
        except UnicodeDecodeError:
            raise ElfError(f"--config: {name} is not UTF-8 text: save it as UTF-8") from None
        except yaml.YAMLError as error:
            raise ElfError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict):
            raise ElfError(f"--config: {name} is no mapping of keys; give a config of Elf's")
        merged = _merged(merged, content)
    return needs_of(merged, Path(names[-1]).stem)


def needs_of(config: Mapping[str, Any], name: str) -> Needs:
    """Return what a config needs.

    Args:
        config: Its content.
        name: Of its file, after which the run's folder is called if the config names none.
    """
    trainer, model, data = (_options(config.get(key)) for key in ("trainer", "model", "data"))
    if not model:  # a page's config has its keys on the top level
        model = dict(config)
    on_cpu = "cpu" in (trainer.get("accelerator"), config.get("device"))
    precision = str(trainer.get("precision") or config.get("precision") or "")
    if data.get("sets"):  # they take the place of the two
        data = {key: value for key, value in data.items() if key not in ("pictures", "labels")}
    wd, florence = _options(model.get("wd")), _options(model.get("florence"))
    models = {f"model.models.{key}": value for key, value in _options(model.get("models")).items()}
    models |= {"model.wd.model": wd.get("model"), "model.florence.model": florence.get("model")}
    return Needs(
        config=True,
        base=_text(model.get("base")),
        models={key: value for key, value in models.items() if isinstance(value, str)},
        places={f"data.{key}": paths for key in PLACES if (paths := _texts(data.get(key)))},
        run=str(trainer.get("default_root_dir") or f"models/{name}") if trainer else None,
        gpu=_gpu(trainer, config, precision),
        devices=0 if on_cpu else _count(trainer.get("devices")),
        bf16=precision.startswith("bf") and not on_cpu,
        bitsandbytes=_bitsandbytes(model),
        cuda_tagger=wd.get("provider") == "cuda",
        workers=_count(data.get("workers"), 0),
    )


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    both = dict(first)
    for key, value in second.items():
        old = both.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            value = _merged(old, value)
        both[key] = value
    return both


def _options(value: Any) -> dict[str, Any]:
    """Return a mapping's options, those of a class if it names one; nothing for anything else."""
    if not isinstance(value, dict):
        return {}
    inner = value.get("init_args")
    return inner if "class_path" in value and isinstance(inner, dict) else value


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, str)]


def _count(value: Any, otherwise: int = 1) -> int:
    if isinstance(value, list):
        return len(value)
    return int(value) if str(value).isdigit() else otherwise


def _gpu(trainer: Mapping[str, Any], config: Mapping[str, Any], precision: str) -> str | None:
    accelerator = str(trainer.get("accelerator") or "")
    if accelerator in ("cuda", "gpu"):
        return f"trainer.accelerator {accelerator}"
    if str(config.get("device") or "").startswith("cuda"):
        return f"device {config['device']}"
    if precision.startswith("16") and trainer:
        return f"trainer.precision {precision}"
    return None


def _bitsandbytes(model: Mapping[str, Any]) -> str | None:
    if model.get("quantization") == "nf4":
        return "model.quantization nf4"
    optimizer = model.get("optimizer")
    path = optimizer.get("class_path") if isinstance(optimizer, dict) else None
    return f"model.optimizer {path}" if str(path).startswith("bitsandbytes.") else None
