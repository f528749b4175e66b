"""What docs/watching.md says is so."""

import re
from pathlib import Path
from typing import Any

import yaml

import elf.watching
from elf import trainer
from elf.callbacks import SamplePictures, SamplePrompt, TrainingRecorder

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "watching.md").read_text("utf-8")


class Parsed(trainer.ElfCLI):
    """Parses and instantiates; runs nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def test_its_configuration_can_be_used(tmp_path: Path) -> None:
    snippet = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0]
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(snippet, encoding="utf-8")
    cli = Parsed(
        [
            "fit",
            "--config=configs/train/quickstart.yaml",
            f"--config={overlay}",
            f"--trainer.default_root_dir={tmp_path}",
        ]
    )
    callbacks: dict[type, Any] = {type(each): each for each in cli.trainer.callbacks}
    samples = callbacks[SamplePictures]
    assert samples.prompts == [
        SamplePrompt("wood_elf, forest"),
        SamplePrompt("portrait, snow", negative_prompt="night", seed=7, width=512),
    ]
    assert samples.strengths == [0.0, 0.5, 1.0]
    given = yaml.safe_load(snippet)["trainer"]["callbacks"][0]["init_args"]
    default = TrainingRecorder()
    assert given == {
        "strata": default.strata,
        "norms_every_n_steps": default.norms_every_n_steps,
    }


def test_its_figures_and_files_are_those_of_a_run(training: list[str], tmp_path: Path) -> None:
    more = ("--trainer.max_steps=4", "--trainer.val_check_interval=4")
    logged = ("--trainer.log_every_n_steps=2", "--logger=tensorboard")
    recorder = "{class_path: TrainingRecorder, init_args: {norms_every_n_steps: 2}}"
    trainer.fit(
        [*training, f"--trainer.default_root_dir={tmp_path}", *more, *logged,
         f"--trainer.callbacks+={recorder}"]
    )  # fmt: skip
    columns = set()
    for name in ("metrics.csv", "speed.csv"):
        columns |= set((tmp_path / name).read_text().splitlines()[0].split(","))
    table = PAGE.split("## Figures")[1].split("They are logged")[0]
    named = {name for name in re.findall(r"`([\w/.]+)`", "".join(table)) if "/" in name}
    stems = {re.sub(r"(_|\.)\d+$", "", name) for name in named}
    for column in columns - {"step", "epoch", "lr/unet"}:
        if column.startswith("val_trained/"):  # named as a whole
            continue
        stem = re.sub(r"(_|\.)\d+$", "", column)
        assert stem in stems or column == "adapter/mid_block" or "up_blocks" in column, column
    for file in re.findall(r"^\| (.*?) \|", PAGE.split("## Figures")[0], re.MULTILINE)[2:]:
        for name in re.findall(r"`(.*?)`", file):
            pattern = name.replace("NNNNNN", "*").rstrip("/")
            assert list(tmp_path.glob(pattern)), name


def test_the_functions_that_it_names_are_there() -> None:
    for name in re.findall(r"`(log_\w+)\(", PAGE):
        assert name in elf.watching.__all__


def test_its_picture_is_there_and_small() -> None:
    assert (ROOT / "docs" / "watching.png").stat().st_size < 300 * 1024
