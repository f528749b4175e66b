"""docs/training.md names keys that there are, and its YAML is a configuration."""

import re
from pathlib import Path

import pytest
import yaml

from elf.trainer import ElfCLI
from elf.training.identity import flatten

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/training.md").read_text(encoding="utf-8")


class Parsed(ElfCLI):
    def _run_subcommand(self, subcommand: str) -> None:
        pass


def parsed(folder: Path, *more: str) -> dict[str, object]:
    cli = Parsed(
        [
            "fit",
            "--config=configs/train/sdxl-lora.yaml",
            "--trainer.precision=32-true",
            "--trainer.accelerator=cpu",
            f"--trainer.default_root_dir={folder}",
            *more,
        ]
    )
    return flatten(cli.config["fit"].as_dict())


def test_every_key_of_the_page_exists(tmp_path: Path) -> None:
    known = {key.replace(".init_args", "", 1) for key in parsed(tmp_path)}  # of its class alone
    whole = {key[: place.start()] for key in known for place in re.finditer(r"\.", key)} | known
    named = set(re.findall(r"`((?:model|data|trainer)\.[\w.]+)", PAGE))
    assert len(named) > 40
    assert sorted(named - whole - {"data.json"}) == []  # a file of the run


def test_every_option_of_the_objective_is_on_the_page(tmp_path: Path) -> None:
    prefix = "model.init_args.objective."
    options = {key.removeprefix(prefix).split(".")[0] for key in parsed(tmp_path) if prefix in key}
    assert {option for option in options if not re.search(rf"`[^`]*\b{option}\b", PAGE)} == set()


def test_the_optimizer_of_the_page_is_one(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    config = tmp_path / "optimizer.yaml"
    text = yaml.safe_load(block)
    config.write_text(
        yaml.safe_dump({"model": {"class_path": "DiffusionModule", "init_args": text}})
    )
    found = parsed(tmp_path / "run", f"--config={config}")
    assert found["model.init_args.optimizer.class_path"] == "prodigyopt.Prodigy"


@pytest.mark.parametrize("overlay", ["8gb", "12gb", "24gb", "80gb"])
def test_the_overlays_of_the_page_are_there(overlay: str) -> None:
    assert (ROOT / f"configs/hardware/{overlay}.yaml").is_file()
