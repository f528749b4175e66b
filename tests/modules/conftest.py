"""A run to evaluate, and the arguments of `elf test` for it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from elf import trainer


@pytest.fixture(scope="session")
def run_folder(training: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    every = "[{class_path: AdapterCheckpoint, init_args: {every_n_steps: 6}}]"
    trainer.fit(
        [
            *training,
            f"--trainer.default_root_dir={folder}",
            "--trainer.max_steps=12",
            f"--trainer.callbacks={every}",
        ]
    )
    return folder


@pytest.fixture(scope="session")
def language_run(lessons: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a language model's run of four steps."""
    folder = tmp_path_factory.mktemp("language_run")
    trainer.fit([*lessons, f"--trainer.default_root_dir={folder}", "--trainer.max_steps=4"])
    return folder


@pytest.fixture
def text_given(language_run: Path, lessons: list[str]) -> Callable[..., list[str]]:
    """Return a function that returns the arguments, given the evaluation's folder and more."""
    (option,) = (each for each in lessons if each.startswith("--data.files="))
    text = Path(option.partition("[")[2].rstrip("]")).parent

    def arguments(output: Path, *more: str) -> list[str]:
        return [
            "--config=configs/eval/text.yaml",
            f"--model.adapter={language_run}",
            "--model.base=null",
            "--model.strengths=[0.5, 1.0]",
            "--model.generation.max_new_tokens=6",
            "--model.generation.batch_size=2",
            f"--model.base_generations={output / 'shared'}",
            "--trainer.accelerator=cpu",
            f"--trainer.default_root_dir={output}",
            f"--data.prompts=[{text / 'questions.jsonl'}]",
            f"--data.forgetting=[{text / 'old.jsonl'}]",
            "--data.batch_size=2",
            *more,
        ]

    return arguments


@pytest.fixture
def given(
    run_folder: Path, labelled: Path, tiny_models: dict[str, Path]
) -> Callable[..., list[str]]:
    """Return a function that returns the arguments, given the evaluation's folder and more."""

    def arguments(output: Path, *more: str) -> list[str]:
        return [
            "--config=configs/eval/quickstart.yaml",
            f"--model.base={tiny_models['base']}",
            f"--model.adapter={run_folder}",
            f"--model.models.clip={tiny_models['clip']}",
            f"--model.models.tagger={tiny_models['tagger']}",
            f"--model.base_pictures={output / 'base'}",
            f"--model.embeddings={output / 'embeddings'}",
            "--model.concept=leaf_crown",
            f"--trainer.default_root_dir={output}",
            f"--data.shards={labelled / 'shards'}",
            "--model.generation.steps=3",
            '--data.prompts=["wood_elf, forest", "wood_elf, snow", "wood_elf, city", "night"]',
            "--data.seeds=[0, 1]",
            *more,
        ]

    return arguments
