"""Runs with captions of more than 75 tokens: their caches, their checkpoints, their pictures."""

import hashlib
from pathlib import Path

import pytest
from PIL import Image

from elf import trainer
from elf.errors import ElfError
from elf.preparation.prepared import read_prepared

FIRST = "wood_elf, " + "dark forest, " * 24
PROMPTS = [FIRST + "silver hair, " * 10, FIRST + "silver hair, " + "red cloak, " * 9]
"""Alike as far as one chunk reaches."""


def shards(folder: Path, *kinds: str) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for kind in kinds
        for path in sorted(folder.glob(f"{kind}-*.tar"))
    }


def lengths(folder: Path) -> set[int]:
    texts = read_prepared(folder).texts
    assert texts is not None
    return {states["text"].shape[0] for states in texts.values()}


def fit(arguments: list[str], folder: Path, *more: str) -> None:
    trainer.fit(
        [
            *arguments,
            f"--trainer.default_root_dir={folder}",
            "--trainer.callbacks=[{class_path: AdapterCheckpoint, init_args: {every_n_steps: 1}}]",
            *more,
        ]
    )


@pytest.fixture(scope="module")
def long(training: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of a run whose captions have 150 tokens, prepared in a folder of their own."""
    folder = tmp_path_factory.mktemp("long")
    arguments = [*training, f"--data.shards={folder / 'shards'}", "--model.caption_tokens=150"]
    trainer.prepare(arguments)
    return arguments


@pytest.fixture(scope="module")
def run_folder(long: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    fit(long, folder, "--trainer.max_steps=2", "--trainer.limit_val_batches=1")
    return folder


def test_another_length_makes_the_text_states_anew_and_nothing_else(
    training: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*training, f"--data.shards={tmp_path}"]
    trainer.prepare(arguments)
    pictures = shards(tmp_path, "train", "heldout", "latents", "flipped", "masks")
    before = shards(tmp_path, "captions")
    assert lengths(tmp_path) == {77}
    capsys.readouterr()
    trainer.prepare([*arguments, "--model.caption_tokens=150"])
    made = capsys.readouterr().out
    assert "made now   0 pictures, 0 latents" in made and " 0 captions" not in made
    assert shards(tmp_path, "train", "heldout", "latents", "flipped", "masks") == pictures
    assert lengths(tmp_path) == {154}, "each caption has the same length, the empty one too"
    trainer.prepare([*arguments, "--model.caption_tokens=75"])
    assert shards(tmp_path, "captions") == before


@pytest.mark.parametrize("tokens", [75, 225])
def test_caches_of_another_length_are_refused(long: list[str], tmp_path: Path, tokens: int) -> None:
    with pytest.raises(ElfError) as error:
        fit([*long, f"--model.caption_tokens={tokens}"], tmp_path, "--trainer.max_steps=1")
    message = str(error.value)
    assert "the caches were made by another text model (" in message
    assert message.endswith(
        "…), clip_skip or caption_tokens: run `elf prepare --config …` with this config"
    )
    assert "\n" not in message


def test_a_run_goes_on_with_its_own_length_alone(long: list[str], tmp_path: Path) -> None:
    live = [*long, f"--data.shards={tmp_path / 'live'}", "--data.text_states=live"]
    trainer.prepare(live)
    fit(live, tmp_path / "run", "--trainer.max_steps=1")
    more = ("--trainer.max_steps=2", "--ckpt_path=last")
    with pytest.raises(ElfError) as error:
        fit([*live, "--model.caption_tokens=225"], tmp_path / "run", *more)
    assert str(error.value).startswith(
        "model.caption_tokens is 225 here and 150 in the checkpoint; a run goes on as it began"
    )
    fit(live, tmp_path / "run", *more)  # the same shards do for every length


def test_a_prompt_is_sampled_at_the_length_of_training(
    long: list[str], training: list[str], tmp_path: Path
) -> None:
    prompts = ", ".join(f'{{prompt: "{prompt}", seed: 0}}' for prompt in PROMPTS)
    samples = (
        f"--trainer.callbacks=[{{class_path: SamplePictures, init_args: {{prompts: [{prompts}], "
        "generation: {steps: 2, width: 64, height: 64}}}]"
    )
    pictures = {}
    for name, arguments in (("long", long), ("plain", training)):
        folder = tmp_path / name
        fit(arguments, folder, samples, "--trainer.max_steps=1", "--trainer.limit_val_batches=0")
        found = sorted((folder / "samples/step-000000").glob("*.png"))
        pictures[name] = [Image.open(path).tobytes() for path in found]
    first, second = pictures["plain"]
    assert first == second, "alike as far as 75 tokens reach"
    first, second = pictures["long"]
    assert first != second


def test_an_evaluation_reads_the_length_from_the_checkpoint(
    run_folder: Path, long: list[str], tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    trainer.test(
        [
            "--config=configs/eval/quickstart.yaml",
            f"--model.base={tiny_models['base']}",
            f"--model.adapter={run_folder}",
            "--model.models={clip: null, tagger: null}",
            "--model.concept=null",
            f"--model.base_pictures={tmp_path / 'base'}",
            f"--trainer.default_root_dir={tmp_path}",
            *(each for each in long if each.startswith("--data.shards=")),
            "--model.generation.steps=2",
            f"--data.prompts={PROMPTS}",
            "--data.seeds=[0]",
        ]
    )
    for variant in ("base", f"{run_folder.name}___1"):
        files = [tmp_path / "pictures" / variant / f"000{n}.png" for n in range(2)]
        first, second = (Image.open(path).tobytes() for path in files)
        assert first != second
