"""Each shipped config parses, instantiates, and comments every value."""

from pathlib import Path

import pytest
import yaml

from elf.resources import find, resolve_configs, shipped
from elf.serving.command import OF_PICTURES, OF_TEXT, make_parser
from elf.trainer import ElfCLI
from elf.training.identity import flatten

CONFIGS = sorted(shipped("configs").rglob("*.yaml"))
COMMANDS = {
    "tag": "predict", "predict": "predict", "train": "fit", "eval": "test", "hardware": "fit",
    "serve": "serve",
}  # fmt: skip
HARDWARE = [path for path in CONFIGS if path.parent.name == "hardware"]
EVALUATION, QUICK = (shipped(f"configs/eval/{name}.yaml") for name in ("image", "quick"))
OVERLAYS = [*HARDWARE, QUICK]
LANGUAGE = [path for path in CONFIGS if path.stem.startswith("language-")]
TRAININGS = [path for path in CONFIGS if path.parent.name == "train" and path not in LANGUAGE]
PRESETS = [path for path in TRAININGS + LANGUAGE if not path.stem.endswith("quickstart")]


class Parsed(ElfCLI):
    """Parses and instantiates; runs nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def instantiated(command: str, tmp_path: Path, *configs: Path) -> Parsed:
    return Parsed(
        [
            command,
            *(f"--config={path}" for path in configs),
            "--trainer.precision=32-true",
            "--trainer.accelerator=cpu",
            f"--trainer.default_root_dir={tmp_path}",
        ]
    )


@pytest.mark.parametrize(
    "path",
    [path for path in CONFIGS if path not in OVERLAYS and path.parent.name != "serve"],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_a_shipped_config_can_be_instantiated(path: Path, tmp_path: Path) -> None:
    cli = instantiated(COMMANDS[path.parent.name], tmp_path, path)
    assert cli.trainer.precision == "32-true"
    assert cli.model is not None
    assert cli.datamodule is not None


@pytest.mark.parametrize(
    ("name", "others", "prompt"),
    [("gradio", OF_TEXT, "wood_elf"), ("chat", OF_PICTURES, "In elvish: ")],
)
def test_a_pages_config_holds_every_option(name: str, others: list[str], prompt: str) -> None:
    path = shipped(f"configs/serve/{name}.yaml")
    options = make_parser().read([f"--config={path}"])
    said = yaml.safe_load(path.read_text())
    assert set(vars(options)) - {"config", *others} == set(said)
    assert (options.host, options.auth, options.port) == ("127.0.0.1", None, 7860)
    assert options.prompt.startswith(prompt)


@pytest.mark.parametrize(
    ("command", "config", "overlay"),
    [
        *(("fit", training, overlay) for training in TRAININGS for overlay in HARDWARE),
        ("test", EVALUATION, QUICK),
    ],
    ids=lambda value: getattr(value, "stem", value),
)
def test_an_overlay_changes_what_it_says_and_nothing_else(
    command: str, config: Path, overlay: Path, tmp_path: Path
) -> None:
    def values(*configs: Path) -> dict[str, object]:
        cli = instantiated(command, tmp_path, *configs)
        return flatten(cli.config[command].as_dict())

    plain, changed = values(config), values(config, overlay)
    said = flatten(yaml.safe_load(overlay.read_text()))
    different = {key for key in changed if changed[key] != plain.get(key)} - {"config"}
    assert different <= set(said)
    for key, value in said.items():
        if key not in ("trainer.precision", "model.class_path", "data.class_path"):
            assert changed[key] == value


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_value_of_a_shipped_config_is_explained(path: Path) -> None:
    """A value's line has a comment, unless its key says it all or it stands inside a list."""
    evident = {"class_path", "weight_decay", "generation", "init_args", "lr"}
    silent = []
    for line in path.read_text().splitlines():
        code = line.split("#")[0].strip()
        if code.startswith('- "'):  # a text in a list, whatever it holds
            continue
        key, _, value = code.removeprefix("- ").partition(":")
        if value.strip() and "#" not in line and key not in evident:
            silent.append(line)
    assert silent == []


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_holds_every_option_of_model_and_data(path: Path, tmp_path: Path) -> None:
    parsed = flatten(instantiated("fit", tmp_path, path).config["fit"].as_dict())
    said = flatten(yaml.safe_load(path.read_text()))
    of_torch = "model.init_args.optimizer.init_args."  # other classes take others
    options = [key for key in parsed if key.startswith(("model.", "data.")) and of_torch not in key]
    assert len(options) > (40 if path in LANGUAGE else 60)
    missing = ", ".join(key for key in options if key not in said)
    assert not missing, f"{path.name} lacks {missing}"


def test_configs_have_a_head_with_the_command() -> None:
    for path in CONFIGS:
        head = path.read_text().split("\n\n")[0]
        assert head.startswith("# ")
        command = f"elf {COMMANDS[path.parent.name]} --config configs/"
        assert command in head
        assert f"--config configs/{path.parent.name}/{path.name}" in head


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
