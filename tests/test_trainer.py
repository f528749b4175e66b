"""The real commands: what they refuse, in one line, and what they leave behind."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.callbacks import ProgressBar

from elf import cli, trainer
from elf.errors import ElfError
from elf.files import FolderLock

CONFIG = """
trainer: {{accelerator: cpu, max_steps: 1, {trainer}}}
model: {{class_path: DiffusionModule, init_args: {{base: nowhere/at/all, {model}}}}}
data: {{class_path: ShardDataModule, init_args: {{shards: none, {data}}}}}
{top}
"""


def write(folder: Path, trainer: str = "", model: str = "", data: str = "", top: str = "") -> Path:
    path = folder / "mistake.yaml"
    path.write_text(CONFIG.format(trainer=trainer, model=model, data=data, top=top))
    return path


@pytest.mark.parametrize("command", trainer.DOES)
def test_help_begins_with_how_a_command_is_used(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.run([command, "--help"])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"usage: elf {command} --config FILE [options]"
    assert lines[2] == trainer.DOES[command]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--trainer.max_step=3"], "unknown key 'trainer.max_step'; did you mean 'max_st"),
        (["prepare", "--trainer.max_step=3"], "unknown key 'trainer.max_step'; did you mean 'max"),
        (["rename", "--dry_ru"], "unknown key 'dry_ru'; did you mean 'dry_run'"),
    ],
)
def test_a_key_is_known_by_its_whole_name_alone(arguments: list[str], message: str) -> None:
    with pytest.raises(ElfError, match=message):
        cli.run(arguments)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            {"trainer": "max_step: 3"},
            "unknown key 'trainer.max_step' in {path}, line 2; did you mean 'max_steps'?",
        ),
        (
            {"model": "adapter: {rnk: 4}"},
            "unknown key 'model.adapter.rnk' in {path}, line 3; did you mean 'rank'?",
        ),
        (
            {"data": "resolutoin: 512"},
            "unknown key 'data.resolutoin' in {path}, line 4; did you mean 'resolution'?",
        ),
        ({"top": "loger: csv"}, "unknown key 'loger' in {path}, line 5; did you mean 'logger'?"),
        (
            {"model": "adapter: {kind: lokr}"},
            "model.adapter.kind: expected lora or dora, got lokr in {path}, line 3",
        ),
        (
            {"data": "resolution: large"},
            "data.resolution: expected int, got large in {path}, line 4",
        ),
        (
            {"model": "adapter: {rank: 0}"},
            "model.adapter.rank: 0 is not a rank; take 4 to 128",
        ),
        (
            {"trainer": "precision: 16-mixed"},
            "trainer.precision: '16-mixed' needs a GPU and there is none in use; "
            "on a CPU take --trainer.precision 32-true",
        ),
        ({"data": "caption_dropout: 2"}, "data.caption_dropout 2"),
        (
            {"trainer": "val_check_interval: often"},
            "trainer: Invalid time format for `val_check_interval`: 'often'",
        ),
    ],
)
def test_a_mistake_in_a_config_is_one_line(
    part: dict[str, str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(Path(), **part)
    with pytest.raises(SystemExit) as stop:
        cli.main(["fit", "--config", str(path)])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("elf: error: ")]
    assert errors == lines[-1:]
    assert message.format(path=path) in errors[0]


def refusal(arguments: list[str]) -> str:
    with pytest.raises(ElfError) as error:
        trainer.fit(arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.fault(15)
def test_a_yaml_imports_nothing_but_what_is_allowed(tmp_path: Path, figures: Any) -> None:
    path = tmp_path / "hostile.yaml"
    marker = tmp_path / "ran"
    path.write_text(
        f"model: {{class_path: os.system, init_args: {{command: 'touch {marker}'}}}}\n"
        "data: {class_path: ShardDataModule}\n"
    )
    assert "os.system" in refusal([f"--config={path}"])
    assert not marker.exists()
    path.write_text(
        "model: {class_path: DiffusionModule, init_args: {base: x, optimizer: "
        "{class_path: subprocess.Popen}}}\ndata: {class_path: ShardDataModule}\n"
    )
    assert "subprocess" in refusal([f"--config={path}"])
    figures(executions=0)


def test_broken_yaml_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("trainer: [unclosed\n")
    assert str(path) in refusal([f"--config={path}"])
    with pytest.raises(ElfError, match=r"broken\.yaml") as error:
        trainer.prepare([f"--config={path}"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"held_out: 0.05", b"held_out: null", r"^data\.held_out: expected float, got null "),
        (b"seed_everything: 0", b"seed_everything: -1", "^seed_everything: -1 is not in bounds"),
        (b"models/tiny/base", b"models/tiny/b\xe4se", "is not UTF-8 text, at its byte .*: save it"),
        (
            b"trainer:\n",
            b"more: &a [*a]\ntrainer:\n",
            r"mistake\.yaml: a value holds itself .*; write",
        ),
        (b"models/tiny/base", b"~nobody/base", "^base model: no folder ~nobody/base; give an exi"),
        (b"models/tiny/base", b"owner/na$me", "^base model: .owner/na.me. is neither a folder nor"),
    ],
)
def test_mistakes_that_fuzzing_found(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    text = Path("configs/train/quickstart.yaml").read_bytes()
    assert old in text
    path = tmp_path / "mistake.yaml"
    path.write_bytes(text.replace(old, new))
    with pytest.raises(ElfError, match=message) as error:
        trainer.prepare([f"--config={path}"])
    assert "\n" not in str(error.value)


def test_a_missing_config_is_one_line() -> None:
    assert "nope.yaml" in refusal(["--config=nope.yaml"])


def test_a_missing_required_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text("model: {class_path: DiffusionModule}\ndata: {class_path: ShardDataModule}\n")
    assert "'model.base' is required" in refusal([f"--config={path}"])


@pytest.mark.parametrize("data", ["", "data:"])
def test_a_training_needs_data(tmp_path: Path, data: str) -> None:
    path = tmp_path / "short.yaml"
    path.write_text(
        f"model: {{class_path: DiffusionModule, init_args: {{base: models/tiny/base}}}}\n{data}"
    )
    assert refusal([f"--config={path}"]) == (
        "'data' is required: give a config that has it (--config FILE); see configs"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [("hello\n", "'hello'"), ("# none\n", "'# none'"), ("", "''"), ("x:\n", "'x:'")],
)
def test_a_config_that_is_no_mapping(
    training: list[str], tmp_path: Path, text: str, shown: str
) -> None:
    path = tmp_path / "overlay.yaml"
    path.write_text(text)
    assert refusal([*training, f"--config={path}"]) == (
        f"{path}: expected lines of KEY: VALUE, got {shown}"
    )


def test_last_without_a_checkpoint(training: list[str], tmp_path: Path) -> None:
    message = refusal([*training, f"--trainer.default_root_dir={tmp_path}", "--ckpt_path=last"])
    assert message == (
        f"no checkpoint in {tmp_path / 'checkpoints'}; `elf fit` writes one there; "
        "leave --ckpt_path out to start from nothing"
    )


def test_a_checkpoint_that_is_not_there(training: list[str], tmp_path: Path) -> None:
    message = refusal([*training, f"--ckpt_path={tmp_path / 'x.ckpt'}"])
    assert message == f"ckpt_path: no file {tmp_path / 'x.ckpt'}; give a .ckpt file, or `last`"


def test_prepare_needs_a_training_config() -> None:
    with pytest.raises(ElfError, match="prepare needs a training config"):
        trainer.prepare(["--config=configs/tag/quickstart.yaml"])


def test_predictions_are_not_kept_in_memory() -> None:
    """Lightning's default would keep every batch's result until the end."""

    class Parsed(trainer.ElfCLI):
        def _run_subcommand(self, subcommand: str) -> None:
            pass

    cli = Parsed(["predict", "--config=configs/tag/quickstart.yaml"])
    assert cli.config_init["predict"]["return_predictions"] is False


def test_a_run_leaves_its_folder_complete(
    training: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    arguments = [*training, f"--trainer.default_root_dir={folder}", "--trainer.max_steps=4"]
    trainer.fit([*arguments, "--trainer.log_every_n_steps=1", "--logger=tensorboard"])
    assert capsys.readouterr().out.endswith(
        "4 steps are done. The file that others load: "
        f"{folder / 'adapter' / 'pytorch_lora_weights.safetensors'}\n"
    )
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["trainer"]["max_steps"] == 4
    assert config["model"]["init_args"]["adapter"]["rank"] == 8
    assert (folder / "metrics.csv").read_text().startswith("step,")
    assert (folder / "checkpoints" / "last.ckpt").exists()
    assert (folder / "samples" / "step-000000.png").exists()
    assert list((folder / "tensorboard").glob("events.*"))
    assert not list(folder.rglob("*.tmp"))
    message = refusal(arguments)
    assert message == (
        f"trainer.default_root_dir: {folder} holds a run already; go on with it by "
        "--ckpt_path last, or choose another folder by --trainer.default_root_dir"
    )


@pytest.mark.parametrize(
    ("options", "bars"),
    [
        ([], ["StepBar"]),
        (["--trainer.enable_progress_bar=false"], []),
        (["--trainer.callbacks+=TQDMProgressBar"], ["TQDMProgressBar"]),
    ],
)
def test_a_training_has_a_bar_of_steps(
    training: list[str], tmp_path: Path, options: list[str], bars: list[str]
) -> None:
    class Made(trainer.ElfCLI):
        def _run_subcommand(self, subcommand: str) -> None:
            pass

    made = Made(["fit", *training, f"--trainer.default_root_dir={tmp_path}", *options])
    found = [type(c).__name__ for c in made.trainer.callbacks if isinstance(c, ProgressBar)]
    assert found == bars


def test_an_interruption_is_one_to_the_caller_too(
    labelled: Path, tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning exits with 1, as after an error."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("elf.datamodules.images.find_pictures", interrupted)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer.predict(
                [
                    "--config=configs/tag/quickstart.yaml",
                    f"--data.root={labelled / 'pictures'}",
                    f"--data.labels={labelled / 'other'}",
                    "--data.cache=null",
                ]
            )
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("command", ["fit", "test"])
def test_two_runs_in_one_folder_at_a_time_are_refused(
    training: list[str], tmp_path: Path, command: str
) -> None:
    folder = tmp_path / "run"
    arguments = training if command == "fit" else ["--config=configs/eval/quickstart.yaml"]
    arguments = [*arguments, f"--trainer.default_root_dir={folder}"]
    with FolderLock(folder), pytest.raises(ElfError) as refused:
        trainer.run(command, arguments)
    assert str(refused.value) == (
        f"{folder} is being written by another process (pid {os.getpid()}): wait for it or stop "
        "it, then start again"
    )
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_a_folder_is_free_again_after_a_run_and_after_a_failed_one(
    training: list[str], tmp_path: Path
) -> None:
    arguments = [*training, f"--trainer.default_root_dir={tmp_path}", "--trainer.max_steps=1"]
    with pytest.raises(ElfError, match="was prepared with"):
        trainer.fit([*arguments, "--data.resolution=32"])
    trainer.fit(arguments)
    FolderLock(tmp_path).close()


def test_a_run_folder_that_cannot_be_is_named(training: list[str], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert refusal([*training, f"--trainer.default_root_dir={file}"]) == (
        f"trainer.default_root_dir: {file} is a file; give a folder"
    )
    assert refusal([*training, f"--trainer.default_root_dir={file}/run"]) == (
        f"trainer.default_root_dir: {file}/run cannot be written (Not a directory); give another "
        "folder"
    )


def test_wandb_runs_offline_without_an_account(
    training: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    folder = tmp_path / "run"
    trainer.fit(
        [
            *training,
            f"--trainer.default_root_dir={folder}",
            "--trainer.max_steps=1",
            "--trainer.log_every_n_steps=1",
            "--logger=wandb",
        ]
    )
    assert list((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert (folder / "metrics.csv").exists()
