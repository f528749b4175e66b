"""Each shipped config parses, instantiates, and comments every value."""

from pathlib import Path

import pytest

from elf.resources import find, resolve_configs, shipped
from elf.trainer import ElfCLI

CONFIGS = sorted(shipped("configs").rglob("*.yaml"))
COMMANDS = {"tag": "predict", "train": "fit", "eval": "test"}


class Parsed(ElfCLI):
    """Parses and instantiates; runs nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_shipped_config_can_be_instantiated(path: Path, tmp_path: Path) -> None:
    command = COMMANDS[path.parent.name]
    cli = Parsed(
        [
            command,
            f"--config={path}",
            "--trainer.precision=32-true",
            "--trainer.accelerator=cpu",
            f"--trainer.default_root_dir={tmp_path}",
        ]
    )
    assert cli.trainer.precision == "32-true"
    assert cli.model is not None
    assert cli.datamodule is not None


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_value_of_a_shipped_config_is_explained(path: Path) -> None:
    """A value's line has a comment, unless its key says it all or it stands inside a list."""
    evident = {"class_path", "weight_decay", "generation", "init_args", "lr"}
    silent = []
    for line in path.read_text().splitlines():
        code = line.split("#")[0].strip()
        key, _, value = code.removeprefix("- ").partition(":")
        if value.strip() and "#" not in line and key not in evident:
            silent.append(line)
    assert silent == []


def test_configs_have_a_head_with_the_command() -> None:
    for path in CONFIGS:
        head = path.read_text().split("\n\n")[0]
        assert head.startswith("# ")
        assert f"elf {COMMANDS[path.parent.name]} --config configs/{path.parent.name}/" in head


def test_shipped_configs_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = find("configs/train/quickstart.yaml")
    assert Path(found).is_absolute()
    assert Path(found).exists()
    assert find("configs/train/nope.yaml") == "configs/train/nope.yaml"
    assert resolve_configs(["--config", "configs/train/quickstart.yaml", "--x", "configs/y"]) == (
        ["--config", found, "--x", "configs/y"],
        [found],
    )
    own = tmp_path / "configs" / "train" / "quickstart.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("{}")
    assert find("configs/train/quickstart.yaml") == "configs/train/quickstart.yaml"
