"""Sample pictures in real training runs: what they show, and that training does not notice."""

import csv
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from elf import adapters, trainer
from elf.adapters import AdapterConfig, at_strength
from elf.adapters.factored import NAME
from elf.callbacks import SamplePictures, SamplePrompt
from elf.errors import ElfError
from elf.generation import GenerationConfig, SamplingStopped, generate
from elf.modules import DiffusionModule
from elf.training.checkpoints import read_checkpoint

CHECKPOINT = "{class_path: AdapterCheckpoint, init_args: {every_n_steps: 2}}"
PROMPTS = "[a, {prompt: b, negative_prompt: night, seed: 7}]"


def samples(**more: object) -> str:
    options = "".join(f", {key}: {value}" for key, value in more.items())
    return (
        f"{{class_path: SamplePictures, init_args: {{prompts: {PROMPTS}, every_n_steps: 2, "
        f"generation: {{steps: 2, width: 64, height: 64}}{options}}}}}"
    )


def fit(training: list[str], folder: Path, steps: int, callbacks: str, *more: str) -> Any:
    return trainer.run(
        "fit",
        [
            *training,
            f"--trainer.default_root_dir={folder}",
            f"--trainer.callbacks=[{callbacks}]",
            f"--trainer.max_steps={steps}",
            "--trainer.limit_val_batches=0",
            *more,
        ],
    )


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "samples.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def state(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = read_checkpoint(folder / "checkpoints/last.ckpt")["state_dict"]
    return found


def test_samples_are_drawn_at_step_0_and_every_n_steps(training: list[str], tmp_path: Path) -> None:
    callbacks = samples(strengths="[0, 1]")
    fit(training, tmp_path, 5, callbacks, "--trainer.accumulate_grad_batches=2")
    folder = tmp_path / "samples"
    sheets = [folder / f"step-00000{step}.png" for step in (0, 2, 4)]
    assert sorted(folder.glob("*.png")) == sheets
    rows = table(tmp_path)
    assert [(row["step"], row["strength"]) for row in rows[:4]] == [("0", "0.0"), ("0", "1.0")] * 2
    assert [row["seed"] for row in rows] == ["0", "0", "7", "7"] * 3
    assert rows[2]["negative_prompt"] == "night" and rows[0]["negative_prompt"] == ""
    pixels = {}
    for row in rows:
        with Image.open(tmp_path / row["picture"]) as picture:
            assert picture.size == (64, 64)
            assert picture.info["prompt"] == row["prompt"] and picture.info["step"] == row["step"]
            pixels[row["step"], row["prompt"], row["strength"]] = picture.tobytes()
    for prompt in "ab":
        base = [pixels[step, prompt, "0.0"] for step in "024"]
        assert base[0] == base[1] == base[2], "strength 0 is the base, whatever was learnt"
        assert pixels["0", prompt, "1.0"] == base[0], "a new adapter changes nothing"
        assert pixels["4", prompt, "1.0"] != base[0]


def test_sampling_changes_nothing_about_the_training(training: list[str], tmp_path: Path) -> None:
    dropout = "--model.adapter.dropout=0.3"
    fit(training, tmp_path / "without", 3, CHECKPOINT, dropout)
    fit(
        training, tmp_path / "with", 3, f"{samples(strengths='[0, 0.5, 1]')}, {CHECKPOINT}", dropout
    )
    without, with_samples = state(tmp_path / "without"), state(tmp_path / "with")
    assert all(torch.equal(tensor, with_samples[key]) for key, tensor in without.items())


def test_without_memory_the_preview_is_left_out_and_training_goes_on(
    training: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error comes in the middle of a picture, at another strength and in evaluation mode."""
    dropout = "--model.adapter.dropout=0.3"
    fit(training, tmp_path / "without", 3, CHECKPOINT, dropout)

    def out_of_memory() -> bool:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    def failing(*arguments: Any, **_: Any) -> Any:
        torch.rand(5)
        return generate(*arguments, stop=out_of_memory)

    monkeypatch.setattr("elf.training.sampling.generate", failing)
    callbacks = f"{samples(strengths='[0.5]')}, {CHECKPOINT}"
    with pytest.warns(UserWarning) as warned:
        cli = fit(training, tmp_path / "with", 3, callbacks, dropout)
    for step, warning in zip((0, 2), warned, strict=True):
        start = f"no memory for the sample pictures of step {step}: they are left out; lower "
        assert str(warning.message).startswith(start)
    assert not (tmp_path / "with" / "samples").exists()
    with_samples = state(tmp_path / "with")
    assert all(torch.equal(t, with_samples[key]) for key, t in state(tmp_path / "without").items())
    assert cli.model.unet.training
    assert {layer.scaling[NAME] for layer in adapters.layers(cli.model)} == {1.0}


@pytest.mark.slow
def test_the_graphs_memory_is_given_up_before_a_preview_is(
    training: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def failing(*arguments: Any, **options: Any) -> Any:
        asked.append("pictures")
        if asked.count("pictures") == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return generate(*arguments, **options)

    def release(_: DiffusionModule) -> bool:
        asked.append("release")
        return True

    monkeypatch.setattr("elf.training.sampling.generate", failing)
    monkeypatch.setattr(DiffusionModule, "release_graphs", release)
    fit(training, tmp_path, 3, samples())
    sheet = ["pictures", "pictures"]  # of two prompts that cannot be sampled together
    found_out = ["pictures", "release", *sheet]
    assert asked == [*found_out, "release", *sheet, "release"]  # the last by the end of training
    assert list((tmp_path / "samples").iterdir())


@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
def test_text_encoders_are_on_the_device_only_to_encode(
    trained: bool, tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a prompt once, but where its states change."""
    adapter = AdapterConfig(text_targets="attention" if trained else None)
    module = DiffusionModule(str(tiny_models["base"]), adapter)
    module.configure_model()
    config = GenerationConfig(steps=1, width=64, height=64)
    pipeline, seen = module._sampler._pipeline, list[str]()
    for name in ("text_encoder", "vae"):
        monkeypatch.setattr(getattr(pipeline, name), "to", lambda _, name=name: seen.append(name))
    module.unet.register_forward_hook(lambda *_: seen.append("unet"))
    first = module.generate(["a", "b"], config)
    drawn = ["vae", "unet", "unet", "vae"]
    encoded = ["text_encoder", "text_encoder"]
    assert seen == encoded + drawn
    again = module.generate(["a", "b"], config)
    assert seen[6:] == (encoded + drawn if trained else drawn)
    assert [each.tobytes() for each in again] == [each.tobytes() for each in first]
    module.generate(["b", "c"], config)
    assert seen[-6:] == encoded + drawn


@pytest.mark.slow
def test_prompts_are_encoded_before_the_first_step_of_a_run_that_goes_on(
    training: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later the text encoders may not fit; where they do not at all, sampling says so."""
    fit(training, tmp_path, 2, f"{samples()}, {CHECKPOINT}")
    seen = list[Any]()
    remember, errors = DiffusionModule.remember_prompts, list[Exception]()

    def spy(self: DiffusionModule, prompts: list[str], config: Any) -> None:
        seen.append((self.global_step, prompts))
        for error in errors:
            raise error
        remember(self, prompts, config)

    monkeypatch.setattr(DiffusionModule, "remember_prompts", spy)
    resumed = "--ckpt_path=last"
    fit(training, tmp_path, 3, f"{samples()}, {CHECKPOINT}", resumed)
    assert seen == [(2, ["a"]), (2, ["b"])]
    errors.append(torch.OutOfMemoryError("CUDA out of memory."))
    fit(training, tmp_path, 4, f"{samples()}, {CHECKPOINT}", resumed)
    assert (tmp_path / "samples" / "step-000004.png").is_file()


def test_another_error_of_sampling_is_raised(
    training: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the shapes do not match")

    monkeypatch.setattr("elf.training.sampling.generate", failing)
    with pytest.raises(RuntimeError, match="the shapes do not match"):
        fit(training, tmp_path, 1, samples())


def test_a_signal_ends_a_preview_and_the_run_that_goes_on_draws_it(
    training: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps_of_sampling = 0

    def signalled(*arguments: Any, stop: Any, **_: Any) -> Any:
        def check() -> bool:
            nonlocal steps_of_sampling
            steps_of_sampling += 1
            signal.raise_signal(signal.SIGTERM)
            return bool(stop())

        return generate(*arguments, stop=check)

    fit(training, tmp_path / "whole", 6, f"{samples()}, {CHECKPOINT}")
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        callbacks = samples().replace("every_n_steps: 2", "every_n_steps: 4")
        patch.setattr("elf.training.sampling.generate", signalled)
        patch.setattr(SamplePictures, "on_train_start", lambda self, *_: None)
        fit(training, tmp_path / "parts", 6, f"{callbacks}, {CHECKPOINT}")
    assert end.value.code == 128 + signal.SIGTERM
    assert steps_of_sampling == 1
    assert not (tmp_path / "parts" / "samples").exists()
    fit(training, tmp_path / "parts", 6, f"{samples()}, {CHECKPOINT}", "--ckpt_path=last")
    whole, parts = table(tmp_path / "whole")[-4:], table(tmp_path / "parts")
    assert whole == parts
    pictures = [(tmp_path / name / parts[0]["picture"]).read_bytes() for name in ("whole", "parts")]
    assert pictures[0] == pictures[1]


@pytest.mark.slow
def test_a_run_that_goes_on_shows_no_picture_twice(training: list[str], tmp_path: Path) -> None:
    callbacks = f"{samples()}, {CHECKPOINT}"
    more = ("--logger=tensorboard", "--trainer.log_every_n_steps=1")
    fit(training, tmp_path / "whole", 4, callbacks, *more)
    fit(training, tmp_path / "parts", 2, callbacks, *more)
    before = (tmp_path / "parts/samples/step-000002.png").stat().st_mtime_ns
    fit(training, tmp_path / "parts", 4, callbacks, *more, "--ckpt_path=last")
    assert (tmp_path / "parts/samples/step-000002.png").stat().st_mtime_ns == before
    whole, parts = table(tmp_path / "whole"), table(tmp_path / "parts")
    assert whole == parts and len(parts) == 6
    events = EventAccumulator(str(tmp_path / "parts/tensorboard"), {"images": 0}).Reload()
    assert [event.step for event in events.Images("samples")] == [0, 2, 4]
    for name in ("train/loss", "speed/steps_per_s"):
        assert [event.step for event in events.Scalars(name)] == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_strength_0_is_the_base_and_others_are_undone(
    tiny_models: dict[str, Path], kind: Any
) -> None:
    module = DiffusionModule(str(tiny_models["base"]), AdapterConfig(kind, rank=4, alpha=2))
    module.configure_model()
    unet = module.unet.eval()
    random = torch.Generator().manual_seed(0)
    noisy = torch.randn(1, 4, 8, 8, generator=random)
    text = torch.randn(1, 77, 128, generator=random)

    def prediction() -> torch.Tensor:
        with torch.no_grad():
            return module.denoiser(noisy, torch.tensor([500]), {"text": text})

    base = prediction()
    for layer in adapters.layers(unet):
        nn.init.normal_(layer.lora_B[NAME].weight, std=0.05, generator=random)
    full = prediction()
    assert not torch.allclose(full, base, atol=1e-3)
    with at_strength([unet], 0):
        torch.testing.assert_close(prediction(), base)
    with at_strength([unet], 0.5):
        half = prediction()
    assert (half - base).norm() < 0.9 * (full - base).norm()
    assert torch.equal(prediction(), full)
    with pytest.raises(KeyError), at_strength([unet], 0.5):
        raise KeyError
    assert torch.equal(prediction(), full)


def test_sampling_stops_after_a_denoising_step_and_puts_the_parts_back(
    tiny_models: dict[str, Path],
) -> None:
    module = DiffusionModule(str(tiny_models["base"]))
    module.configure_model()
    with pytest.raises(SamplingStopped):
        module.generate(["a"], GenerationConfig(steps=3, width=64, height=64), stop=lambda: True)
    assert module.unet.training


def test_what_sampling_leaves_behind_can_be_trained_with(tiny_models: dict[str, Path]) -> None:
    """A tensor made in inference mode could not be: one that a layer keeps, for example."""
    module = DiffusionModule(str(tiny_models["base"]))
    module.configure_model()
    kept = []
    layer = adapters.layers(module.unet)[0]
    layer.register_forward_hook(lambda *arguments: kept.append(arguments[2]))
    module.generate(["a"], GenerationConfig(steps=1, width=64, height=64))
    weight = torch.ones(1, requires_grad=True)
    (kept[0] * weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SamplePictures([]), "SamplePictures.prompts is empty; give a prompt"),
        (lambda: SamplePictures(["a"], 0), "SamplePictures.every_n_steps is 0; take 1 or more"),
        (lambda: SamplePictures(["a"], strengths=[]), "SamplePictures.strengths is empty; give"),
        (
            lambda: SamplePictures(["a"], generation=GenerationConfig(steps=0)),
            "SamplePictures.generation.steps is 0; take 1 or more",
        ),
        (
            lambda: SamplePictures(["a"], generation=GenerationConfig(batch_size=0)),
            "SamplePictures.generation.batch_size is 0; take 1 or more",
        ),
        (
            lambda: SamplePictures(["a"], generation=GenerationConfig(width=500)),
            "SamplePictures.generation.width 500 is no multiple of 8, as latents want it",
        ),
        (
            lambda: SamplePictures(["a", SamplePrompt("b", height=4)]),
            "SamplePictures.prompts[1].height 4 is no multiple of 8, as latents want it",
        ),
    ],
)
def test_arguments_that_make_no_sense(make: Any, message: str) -> None:
    with pytest.raises(ElfError) as error:
        make()
    assert message in str(error.value)


def test_a_prompts_own_options_beat_the_general_ones() -> None:
    general = GenerationConfig(seed=3, guidance=5.0, negative_prompt="blurred")
    plain = SamplePrompt("a").options(general, 2)
    assert (plain.seed, plain.guidance, plain.negative_prompt) == (5, 5.0, "blurred")
    own = SamplePrompt("a", negative_prompt="", seed=0, guidance=1.0, width=32).options(general, 2)
    assert (own.seed, own.guidance, own.negative_prompt, own.width) == (0, 1.0, "", 32)
