"""Every command of the documentation is run as it stands, or at least read by the real parser."""

import importlib
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from elf import cli, trainer
from elf.labels.records import labelled_ids
from elf.plan import PlanCLI
from elf.trainer import DOES, ElfCLI
from elf.world.elvish import write_lessons

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs"))
reference = importlib.import_module("reference")

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
TESTED = {
    "README.md": "tests/test_readme.py",
    "docs/doctor.md": "tests/docs/test_doctor.py",
    "docs/scaling.md": "tests/docs/test_scaling.py",
    "elf quickstart": "tests/learning/test_quickstart.py",
    "elf quickstart --adapter dora --output models/quickstart-dora":
        "tests/learning/test_quickstart.py",
    "elf quickstart --pictures DIR": "tests/test_quickstart.py",
    "elf quickstart --model language": "tests/learning/test_language.py",
}  # fmt: skip
"""What another test runs: a page, or a command."""
HUB = "a base from the hub; on tiny models by tests/test_readme.py"
EVALUATED = "models from the hub; on tiny models by tests/evaluation"
SERVED = "waits for visitors; tests/serving visits the page"
READ = {
    "elf test --config configs/eval/image.yaml --model.adapter models/wood_elf": EVALUATED,
    "elf test --config configs/eval/image.yaml --config configs/eval/quick.yaml": EVALUATED,
    "elf test --config configs/eval/image.yaml --model.adapter '[models/wood_elf, models/other]'":
        EVALUATED,
    "elf test --config configs/eval/text.yaml --model.adapter models/elvish": EVALUATED,
    "elf test --config configs/eval/text.yaml --model.adapter '[models/elvish, models/other]'":
        EVALUATED,
    "elf test --config configs/eval/text.yaml --model.adapter models/assistant": EVALUATED,
    "elf prepare --config configs/train/language-lora.yaml": HUB,
    "elf fit --config configs/train/language-lora.yaml": HUB,
    "elf fit --config configs/train/sdxl-lora.yaml --config configs/hardware/12gb.yaml":
        "a card of 12 GB; on tiny models by tests/bases",
    "elf prepare --config configs/train/language-quickstart.yaml --model.base "
    "'$base/SmolLM2-135M-Instruct.Q4_1.gguf' --data.files '[models/lessons/text/lessons.jsonl]' "
    "--data.tokens data/tokens/smollm2": "a package with weights; by tests/language",
    "elf plan --config configs/train/sdxl-lora.yaml --gpu 'RTX 3060 Ti'":
        "takes 15 s at SDXL's size; at others by tests/test_plan.py",
    "elf quickstart --model language --steps 10 --output models/lessons":
        "takes long for what tests/learning/test_language.py runs in full",
    "elf serve --config configs/serve/chat.yaml --base Qwen/Qwen2.5-0.5B-Instruct "
    "--adapters models": SERVED,
    "elf serve --config configs/serve/gradio.yaml --base models/base --adapters models": SERVED,
    "elf serve --config configs/serve/chat.yaml --base models/tiny/language --adapters models":
        SERVED,
}  # fmt: skip
"""What is only read by its parser, and why it is not run."""


class Line(NamedTuple):
    """A command of a page, its words joined anew so that it is written in one way."""

    page: str
    command: str

    @property
    def arguments(self) -> list[str]:
        return shlex.split(self.command)[1:]


def lines_of(page: str) -> list[Line]:
    text = (ROOT / page).read_text("utf-8")
    found = []
    for block in re.findall(r"```(?:bash|console|powershell)\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;(?![^{]*')|\{|\}", line.removeprefix("$ ")):
                words = shlex.split(part, comments=True) if part.strip().startswith("elf ") else []
                if words:
                    found.append(Line(page, shlex.join(words)))
    return found


LINES = [line for page in PAGES for line in lines_of(page)]
RUN = [line for line in LINES if not {line.page, line.command} & (TESTED.keys() | READ.keys())]


class Read(ElfCLI):
    """Reads a command's line and configuration; makes nothing, runs nothing."""

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


class ReadPlan(Read, PlanCLI):
    pass


def read(arguments: list[str]) -> None:
    name, *rest = arguments
    if name == "plan":
        ReadPlan(rest)
    elif name in DOES:
        Read(rest, run=False) if name == "prepare" else Read(arguments)
    else:
        parser = reference.command_parsers()[name]
        getattr(parser, "read", parser.parse_args)(rest)


def test_there_are_commands_to_look_at() -> None:
    assert len(LINES) > 35 and len(RUN) > 10
    shown = {line.arguments[0] for line in LINES}
    assert shown == cli.COMMANDS.keys() - {"rename", "label"}  # which stand in tables


def test_what_is_tested_elsewhere_and_only_read_still_stands_there() -> None:
    standing = {line.command for line in LINES} | {line.page for line in LINES}
    assert sorted(READ.keys() - standing) == []
    assert sorted(TESTED.keys() - standing) == []
    for path in TESTED.values():
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("command", READ, ids=lambda command: command[4:60])
def test_the_parser_takes_what_is_not_run(command: str) -> None:
    read(Line("", command).arguments)


@pytest.fixture(scope="module")
def place(
    labelled: Path,
    training: list[str],
    tiny_models: dict[str, Path],
    tiny_language: Path,
    make_language_run: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder that has what the pages' commands speak of."""
    folder = tmp_path_factory.mktemp("documented")
    for name in ("raw", "labels"):
        source = {"raw": "pictures"}.get(name, name)
        shutil.copytree(labelled / source, folder / "data" / name)
    run = folder / "models/wood_elf"
    trainer.fit([*training, f"--trainer.default_root_dir={run}", "--trainer.max_steps=2",
                 "--model.validation_strata=2"])  # fmt: skip
    (folder / "models/base").symlink_to(tiny_models["base"])
    for name in ("assistant", "elvish"):
        made = make_language_run(folder / "models" / name)
        base = {
            "model": {"class_path": "LanguageModule", "init_args": {"base": str(tiny_language)}}
        }
        (made / "config.yaml").write_text(yaml.safe_dump(base))
    (folder / "Downloads").mkdir()
    chosen = sorted(labelled_ids(folder / "data/labels"))[0]
    text = f'{{"id": "{chosen}", "keep": false}}\n'
    (folder / "Downloads/elf-decisions.jsonl").write_text(text)
    questions = write_lessons(folder / "lessons", 2, 0, 4)["questions.jsonl"]
    shutil.copy(questions, folder / "data/prompts.jsonl")
    (folder / "ComfyUI/models/loras").mkdir(parents=True)
    return folder


@pytest.fixture
def overrides(tiny_language: Path) -> dict[str, list[str]]:
    """What takes each command to tiny models and files, by its name."""
    on_cpu = ["--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    return {
        "predict": [*on_cpu, f"--model.base={tiny_language}", "--data.files=[data/prompts.jsonl]",
                    "--model.generation.max_new_tokens=4"],
        "validate": [*on_cpu, "--data.workers=0"],
    }  # fmt: skip


@pytest.mark.timeout(900)
def test_the_rest_runs_as_it_stands(
    place: Path,
    overrides: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place))
    for line in RUN:
        arguments = [str(Path(each).expanduser()) if each.startswith("~") else each
                     for each in line.arguments]  # fmt: skip
        if "civitai.safetensors" in arguments:  # a stranger's file, such as the one before made
            shutil.copy("ComfyUI/models/loras/wood_elf.safetensors", "civitai.safetensors")
        try:
            cli.run([*arguments, *overrides.get(arguments[0], [])])
        except SystemExit as end:  # of --print_config
            assert end.code in (0, None), line
    printed = capsys.readouterr().out
    for path in (
        "data/curation/index.html",
        "models/wood_elf/adapter/pytorch_lora_weights.safetensors",
        "models/wood_elf/validation.csv",
        "data/answers.jsonl",
        "data/base.jsonl",
        "models/assistant/merged",
    ):
        assert Path(path).exists(), path
    assert "1 decision written to data/labels/decisions.jsonl" in printed
    assert "class_path: elf.modules.DiffusionModule" in printed
