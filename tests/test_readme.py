"""The README tells the truth: its commands run, its files exist, its tables are complete."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from elf import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def commands(language: str = "bash") -> list[list[str]]:
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return [
        shlex.split(line, comments=True) for block in blocks for line in block.splitlines() if line
    ]


def elf_lines(of_text: bool) -> list[list[str]]:
    """The lines of ``elf`` that are about language models, or those that are not."""
    lines = [line for line in commands() if line[0] == "elf"]
    return [line for line in lines if any("language" in word for word in line) == of_text]


def test_the_two_commands_stand_in_both_shells() -> None:
    assert ["pip", "install", "-e", ".", "&&", "elf", "quickstart"] in commands()
    assert ["pip", "install", "-e", ".[test]", "&&", "pytest"] in commands()
    assert "pip install -e .; if ($?) { elf quickstart }" in README
    assert "pip install -e '.[test]'; if ($?) { pytest }" in README


ONLY_IN_BASH = re.compile(r"&&|\\$|\$\(|^export |^[A-Z_]+=\S+ |^\w+=\$|<<", re.MULTILINE)


@pytest.mark.parametrize(
    "page", ["README.md", "docs/index.md", "docs/notebooks.md", "docs/text.md"]
)
def test_what_only_bash_understands_stands_in_powershell_too(page: str) -> None:
    """In the next block, or in the last one for all before it; the same commands of Elf's."""
    text = (ROOT / page).read_text("utf-8")
    blocks = re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
    foreign = [code for language, code in blocks
               if language == "bash" and ONLY_IN_BASH.search(code)]  # fmt: skip
    windows = "".join(code for language, code in blocks if language == "powershell")
    assert not ONLY_IN_BASH.search(windows)
    named = re.findall(r"\b(?:elf \w+|pytest)\b", "".join(foreign))
    assert sorted(named) == sorted(re.findall(r"\b(?:elf \w+|pytest)\b", windows))


def test_every_command_that_is_named_exists() -> None:
    named = set(re.findall(r"elf ([a-z]+)\b", README)) - {"as"}
    assert named <= cli.COMMANDS.keys()
    assert cli.COMMANDS.keys() <= named


def test_every_file_that_is_named_exists() -> None:
    for path in set(re.findall(r"(?<![\w/])((?:elf|configs)/[\w/.-]+)", README)):
        assert (ROOT / path).exists(), path


def test_the_module_map_names_every_package() -> None:
    section = README.partition("\n## Where things are\n")[2].partition("\n## ")[0]
    for init in (ROOT / "elf").glob("*/__init__.py"):
        assert f"`elf/{init.parent.name}/" in section, init.parent.name


def test_the_loop_runs_as_it_is_written(
    labelled: Path,
    tiny_models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The README's loop on tiny models: each command as it stands, models and sizes overridden."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(labelled / "pictures", "data/raw")
    on_cpu = ["--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    base = f"--model.base={tiny_models['base']}"
    sampled = ["--model.generation.width=64", "--model.generation.height=64"]
    sizes = ["--data.resolution=64", "--data.bucket_step=16", "--data.min_side=32"]
    sizes += ["--data.max_side=128", "--data.workers=0"]
    callbacks = "--trainer.callbacks=[{class_path: AdapterCheckpoint}]"
    overrides = {
        "curate": [],
        "predict": [
            *on_cpu,
            f"--model.wd.model={tiny_models['tagger']}",
            f"--model.florence.model={tiny_models['captioner']}",
            "--data.workers=0",
        ],
        "prepare": [base, *sizes],
        "fit": [*on_cpu, base, *sizes, callbacks, "--model.schedule.total_steps=4"],
        "test": [
            *on_cpu,
            base,
            f"--model.models.clip={tiny_models['clip']}",
            f"--model.models.tagger={tiny_models['tagger']}",
            "--model.models.dino=null",
            "--model.generation.steps=2",
            "--model.strengths=[1]",
            "--data.seeds=[0]",
            *sampled,
        ],
        "export": [],
    }
    steps = iter((2, 4))
    ran = []
    for _, command, *arguments in elf_lines(of_text=False):
        more = overrides[command]
        if command == "fit":
            more = [*more, f"--trainer.max_steps={next(steps)}"]
        cli.run([command, *arguments, *more])
        ran.append(command)
    assert ran == ["curate", "predict", "prepare", "fit", "fit", "test", "export", "export"]
    for path in (
        "data/labels/manifest.jsonl",
        "data/shards/wood_elf/prepared.json",
        "models/wood_elf/checkpoints/step-000004.ckpt",
        "models/wood_elf/evaluation/report.html",
        "models/wood_elf/adapter/pytorch_lora_weights.safetensors",
        "loras/wood_elf.safetensors",
    ):
        assert Path(path).exists(), path


def test_language_models_are_trained_as_it_is_written(
    tiny_language: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from elf.world.elvish import write_lessons

    monkeypatch.chdir(tmp_path)
    lessons = write_lessons(tmp_path / "rows", 40, 0, 4)["lessons.jsonl"]
    Path("data/text").mkdir(parents=True)
    shutil.copy(lessons, "data/text")
    overrides = [f"--model.base={tiny_language}", "--data.length=128"]
    on_cpu = ["--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.max_steps=2",
              "--model.optimizer.init_args.fused=false", "--logger=csv",
              "--trainer.callbacks=[{class_path: AdapterCheckpoint}]"]  # fmt: skip
    ran = []
    for _, command, *arguments in elf_lines(of_text=True):
        cli.run([command, *arguments, *overrides, *(on_cpu if command == "fit" else [])])
        ran.append(command)
    assert ran == ["prepare", "fit"]
    assert Path("models/assistant/adapter/adapter_model.safetensors").exists()
