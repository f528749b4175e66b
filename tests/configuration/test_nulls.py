"""A null where a value must be is refused by its key, before anything is made of it."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Trainer

from elf import trainer
from elf.configuration.nulls import Null, find_nulls
from elf.errors import ElfError


def config_with(key: str, value: Any = None) -> dict[str, Any]:
    """Return a shipped configuration with a value at a key, as that is called in the file."""
    config = yaml.safe_load(Path("configs/train/quickstart.yaml").read_text())
    config["model"]["init_args"]["base"] = "./nowhere"
    config["data"]["init_args"]["sets"] = [{"pictures": "a"}, {"pictures": "b", "repeats": 2}]
    del config["data"]["init_args"]["pictures"], config["data"]["init_args"]["labels"]
    place: Any = config
    *parts, last = (int(part) if part.isdigit() else part for part in key.split("."))
    for part in parts:
        place = place[part]
    place[last] = value
    return config


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("data.init_args.batch_size", "data.batch_size: expected int, got null in FILE, line 4; "
         "give one, or leave it out for 1"),
        ("data.init_args.resolution", "data.resolution: expected int, got null in FILE"),
        ("data.init_args.caption", "data.caption: expected 'tags' or 'sentence' or 'both' or "),
        ("data.init_args.sets.1.repeats", "data.sets[1].repeats: expected int, got null in FILE"),
        ("model.init_args.adapter", "model.adapter: expected AdapterConfig, got null in FILE, line "
         "23; give one, or leave it out"),
        ("model.init_args.adapter.rank", "model.adapter.rank: expected int, got null in FILE"),
        ("model.init_args.optimizer.init_args.lr", "model.optimizer.lr: expected float"),
        ("trainer.callbacks.1.init_args.generation.steps",
         "trainer.callbacks[1].generation.steps: expected int, got null in FILE"),
        ("trainer.max_steps", "trainer.max_steps: expected int, got null in FILE"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", [trainer.prepare, trainer.fit])
def test_a_null_is_refused_by_its_key(tmp_path: Path, key: str, message: str, command: Any) -> None:
    path = tmp_path / "null.yaml"
    path.write_text(yaml.safe_dump(config_with(key)))
    with pytest.raises(ElfError) as error:
        command([f"--config={path}", f"--trainer.default_root_dir={tmp_path}/run"])
    assert str(error.value).replace(str(path), "FILE").startswith(message)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "arguments"),
    [(trainer.fit, []), (trainer.prepare, []), (trainer.prepare, ["--trainer.max_steps=1"])],
)
def test_an_empty_trainer_is_refused(tmp_path: Path, command: Any, arguments: list[str]) -> None:
    """As it is when each line under ``trainer:`` is commented out."""
    path = tmp_path / "null.yaml"
    path.write_text(yaml.safe_dump(config_with("trainer")))
    with pytest.raises(ElfError) as error:
        command([f"--config={path}", *arguments])
    message = f"trainer: expected a mapping, got null in {path}, line "
    assert str(error.value).startswith(message)
    assert str(error.value).endswith("; leave it out")


@pytest.mark.parametrize(
    "key",
    [
        "data.init_args.trigger", "model.init_args.adapter.alpha", "model.init_args.lr_scheduler",
        "model.init_args.ema", "trainer.gradient_clip_val", "trainer.callbacks",
    ],
)  # fmt: skip
def test_a_null_that_means_something_is_none(tmp_path: Path, key: str) -> None:
    path = tmp_path / "null.yaml"
    path.write_text(yaml.safe_dump(config_with(key)))
    message = "takes the trigger out" if "trigger" in key else "base model: no folder ./nowhere"
    with pytest.raises(ElfError, match=message):  # which is said when all else is well
        trainer.prepare([f"--config={path}"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", 5, "model: expected LightningModule, got 5 in FILE"),
        ("model", {"init_args": {"base": "x"}}, "model: init_args without a class_path in FILE"),
        ("model.init_args", None, "model: init_args of elf.modules.DiffusionModule that are n"),
        ("model.init_args.optimizer.init_args", 3.0, "model.optimizer: init_args of a class that "),
        ("model.init_args.lr_scheduler", 3, "model.lr_scheduler: expected class_path and init_a"),
        ("model.init_args.lr_scheduler", {"init_args": {"max_lr": 1}},
         "model.lr_scheduler: init_args without a class_path in FILE"),
        ("trainer.callbacks.0", None, "trainer.callbacks: expected Callback, got None in FILE"),
        ("trainer.callbacks.0", {"init_args": {}}, "trainer.callbacks: init_args without a class_"),
        ("data", {"init_args": {"seed": 1}}, "data: init_args without a class_path in FILE"),
        ("data.init_args.sets.1", None, "data.sets: expected PictureSet, got None in FILE"),
    ],
)  # fmt: skip
def test_what_is_no_object_is_told_plainly(
    tmp_path: Path, key: str, value: Any, message: str
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(config_with(key, value)))
    with pytest.raises(ElfError) as error:
        trainer.prepare([f"--config={path}"])
    assert str(error.value).replace(str(path), "FILE").startswith(message)
    assert "\n" not in str(error.value)


def test_what_has_no_annotations_is_left_alone() -> None:
    things = [
        {"class_path": "random.Random", "init_args": {"x": None}},
        {"class_path": "json.nothing", "init_args": {"x": None}},
        {"class_path": ".x", "init_args": {"x": None}},
        {"class_path": "fractions.Fraction"},
        {"a": None},
    ]
    config = {"things": things, "trainer": {"max_steps": None, "max_time": None, "unknown": None}}
    assert list(find_nulls(config, Trainer)) == [Null("trainer.max_steps", "int", -1)]
    assert list(find_nulls({"trainer": None, "data": None}, Trainer)) == []


def test_nothing_is_imported_to_look_for_nulls() -> None:
    """A stranger's configuration may name any module where the parser takes it for data."""
    assert "antigravity" not in sys.modules
    thing = {"class_path": "antigravity.fly", "init_args": {"x": None}}
    assert list(find_nulls({"things": [thing]}, Trainer)) == []
    assert "antigravity" not in sys.modules
