"""`elf fit` of a language model: learns, goes on bit by bit, exports, refuses what is odd."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from elf import cli, trainer
from elf.errors import ElfError
from elf.export.trained import read_trained
from elf.files import sha256_file
from elf.training.checkpoints import read_checkpoint

STEPS, STOP = 4, 2

OPTIONS: dict[str, list[str]] = {
    "plain": [],
    "dora": ["--model.adapter.kind=dora"],
    "dora, input axis": ["--model.adapter.kind=dora", "--model.adapter.axis=input"],
    "rslora and alpha": ["--model.adapter.rslora=true", "--model.adapter.alpha=8"],
    "attention alone": ["--model.adapter.targets=attention", "--model.adapter.dropout=0.2"],
    "groups": ["--model.adapter.groups=[{pattern: '*.layers.0.*', rank: 4, lr_scale: 0.5}]"],
    "pissa": ["--model.adapter.init=pissa"],
    "average": ["--model.ema={decay: 0.5}"],
    "accumulation": ["--trainer.accumulate_grad_batches=2", "--data.batch_size=1"],
    "checkpointing": ["--model.gradient_checkpointing=true"],
    "int8": ["--model.quantization=int8"],
    "no packing": ["--data.packing=false", "--data.length_step=32"],
    "lora plus": ["--model.learning_rates.lora_plus=4"],
    "prodigy": ["--model.optimizer.class_path=prodigyopt.Prodigy",
                "--model.optimizer.init_args.lr=1.0"],
}  # fmt: skip


def fit(lessons: list[str], folder: Path, steps: int, *options: str) -> Path:
    trainer.fit(
        [
            *lessons,
            f"--trainer.default_root_dir={folder}",
            f"--trainer.max_steps={steps}",
            "--model.schedule.total_steps=4",
            *options,
        ]
    )
    return folder / "checkpoints" / "last.ckpt"


def losses(folder: Path) -> list[str]:
    with (folder / "metrics.csv").open() as file:
        return [row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]]


SHORT = ("plain", "dora", "average", "accumulation", "int8", "no packing")
"""Those that each run of the tests trains."""

ROWS = [n if n in SHORT else pytest.param(n, marks=pytest.mark.slow) for n in OPTIONS]


@pytest.mark.fault(9)
@pytest.mark.parametrize("name", ROWS)
def test_a_run_in_two_parts_is_the_run_in_one(
    name: str, lessons: list[str], tmp_path: Path
) -> None:
    options = OPTIONS[name]
    whole = read_checkpoint(fit(lessons, tmp_path / "whole", STEPS, *options))
    first = fit(lessons, tmp_path / "parts", STOP, *options)
    parts = read_checkpoint(
        fit(lessons, tmp_path / "parts", STEPS, *options, f"--ckpt_path={first}")
    )
    for key, tensor in whole["state_dict"].items():
        assert torch.equal(tensor, parts["state_dict"][key]), key
    mine, its = (each["optimizer_states"][0]["state"] for each in (whole, parts))
    for number, values in mine.items():
        for key, value in values.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(its[number][key]))
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert len(losses(tmp_path / "whole")) == STEPS
    moved = [t for key, t in whole["state_dict"].items() if ".lora_B." in key]
    assert all(tensor.abs().max() > 0 for tensor in moved)


@pytest.fixture(scope="module")
def runs(lessons: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A LoRA and a DoRA of all layers, trained for a few steps."""
    folder = tmp_path_factory.mktemp("runs")
    for kind in ("lora", "dora"):
        fit(lessons, folder / kind, STEPS, f"--model.adapter.kind={kind}",
            "--model.adapter.alpha=8", "--model.optimizer.init_args.lr=0.02")  # fmt: skip
    return {kind: folder / kind for kind in ("lora", "dora")}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(5, 45)[None]).logits
    return found


def trained_logits(run: Path, base: Path) -> torch.Tensor:
    """What the module itself computes."""
    from elf.modules import LanguageModule

    trained = read_trained(run)
    module = LanguageModule(str(base), trained.config)
    module.configure_model()
    module.load_state_dict(dict(trained.state))
    return logits(module.network.model.eval())


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft 0.21 asks
def test_plain_peft_has_the_same_logits(
    kind: str, runs: dict[str, Path], tiny_language: Path, tmp_path: Path
) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_language, dtype=torch.float32)
    before = logits(base)
    expected = trained_logits(runs[kind], tiny_language)
    assert (expected - before).abs().max() > 0.1
    cli.main(["export", f"--input={runs[kind]}", f"--output={tmp_path / 'out'}",
              "--dtype=float32"])  # fmt: skip
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"adapter_model.safetensors", "adapter_config.json"}
    found = logits(PeftModel.from_pretrained(base, tmp_path / "out"))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["task_type"] == "CAUSAL_LM" and config["lora_alpha"] == 8
    assert config["base_model_name_or_path"] is None  # a folder of this machine
    # what vLLM looks layers up by
    keys = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in keys


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_what_was_exported_reads_back(
    kind: str, runs: dict[str, Path], tiny_language: Path, tmp_path: Path
) -> None:
    cli.main(["export", f"--input={runs[kind]}", f"--output={tmp_path}", "--dtype=float32"])
    again, first = read_trained(tmp_path), read_trained(runs[kind])
    assert again.state.keys() == first.state.keys()
    assert all(torch.equal(again.state[key], tensor) for key, tensor in first.state.items())
    assert (again.config.rank, again.config.alpha, again.config.kind) == (16, 8, kind)
    assert again.base_sha256 == first.base_sha256


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_merged_model_has_the_same_logits(
    kind: str, runs: dict[str, Path], tiny_language: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    cli.main(["export", f"--input={runs[kind]}", f"--output={tmp_path / 'out'}",
              "--target=merged,peft", "--dtype=float32"])  # fmt: skip
    assert "verified: 39 tensors, as they were merged" in capsys.readouterr().out
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "merged")
    expected = trained_logits(runs[kind], tiny_language)
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)
    assert (tmp_path / "out" / "merged" / "chat_template.jinja").is_file()


def test_a_quantised_base_is_merged_as_it_was_trained_beside(
    lessons: list[str], tmp_path: Path
) -> None:
    from elf.modules import LanguageModule

    fit(lessons, tmp_path / "run", STEPS, "--model.quantization=int8",
        "--model.optimizer.init_args.lr=0.02")  # fmt: skip
    trained = read_trained(tmp_path / "run")
    base = next(each for each in lessons if "model.base" in each).partition("=")[2]
    module = LanguageModule(base, trained.config, quantization="int8")
    module.configure_model()
    module.load_state_dict(dict(trained.state))
    expected = logits(module.network.model.eval())
    cli.main(["export", f"--input={tmp_path / 'run'}", f"--output={tmp_path / 'merged'}",
              "--target=merged", "--dtype=float32"])  # fmt: skip
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)


def test_at_the_end_of_a_run_the_adapter_lies_in_its_folder(
    lessons: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(lessons, tmp_path, STEPS, "--logger=tensorboard")
    assert f"The folder that others load: {tmp_path / 'adapter'}" in capsys.readouterr().out
    assert read_trained(tmp_path / "adapter").of_language
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    shown = EventAccumulator(str(events), size_guidance={"tensors": 0})
    shown.Reload()
    (text,) = shown.Tensors("adapter/text_summary")
    digest = sha256_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert digest in text.tensor_proto.string_val[0].decode()


def test_validation_says_how_likely_new_documents_are(lessons: list[str], tmp_path: Path) -> None:
    fit(lessons, tmp_path, STEPS)
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/ratio"]]
    assert len(rows) == 2
    last = {key: float(value) for key, value in rows[-1].items() if value}
    assert last["val/perplexity"] < last["val/perplexity_base"]
    ratio = last["val/perplexity"] / last["val/perplexity_base"]
    assert last["val/ratio"] == pytest.approx(ratio, rel=1e-6)
    assert last["val/ratio_low"] < last["val/ratio"] < last["val/ratio_high"] < 1
    assert 0 <= last["val/accuracy"] <= 1 and 0 <= last["train/accuracy"] <= 1


def test_answers_are_shown_from_step_0_on(lessons: list[str], tmp_path: Path) -> None:
    prompts = '["In elvish: Erugil in the green cloak.", "Describe: Eruthir."]'
    callback = f"{{class_path: SampleTexts, init_args: {{prompts: {prompts}, every_n_steps: 2, " \
        "strengths: [0, 1], generation: {max_new_tokens: 4}}}"  # fmt: skip
    fit(lessons, tmp_path, STEPS, f"--trainer.callbacks=[{callback}]",
        "--model.optimizer.init_args.lr=0.02")  # fmt: skip
    files = sorted(path.name for path in (tmp_path / "samples").glob("*.md"))
    assert files == ["step-000000.md", "step-000002.md", "step-000004.md"]
    with (tmp_path / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    first, last = rows[:4], rows[-4:]
    assert [r["answer"] for r in first if r["strength"] == "0"] == [
        r["answer"] for r in last if r["strength"] == "0"
    ]
    assert [r["answer"] for r in first] != [r["answer"] for r in last]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.adapter.text_targets=attention"], "a language model has no text encoders"),
        (["--model.adapter.targets=attention+feedforward+convolutions"],
         "LlamaForCausalLM has no layer of the preset attention.feedforward.convolutions"),
        (["--model.learning_rates.unet=1e-3"], "model.learning_rates.unet 0.001: there is no"),
        (["--data.length=1024"], "data.length: 1024 tokens are more than the 512 that"),
        (["--data.length=64"], "was made with data.length 128 and not 64"),
        (["--trainer.limit_train_batches=3", "--trainer.accumulate_grad_batches=2"],
         "trainer.limit_train_batches: 3 ends within a step of 2 batches; give a multiple"),
        (["--data.batch_size=64", "--data.remainder=drop"], "data.remainder=drop leaves no step"),
        (["--data.batch_size=0"], "data.batch_size 0 is too small: at least 1"),
        (["--model.base=models/tiny/base"], "models/tiny/base"),
        (["--model.base=nowhere/at all.gguf"], "no file nowhere/at all.gguf"),
        (["--data.chat_template=none.jinja"], "data.chat_template: none.jinja cannot be read"),
        (["--data.tokens=elsewhere"], "elf prepare"),
        (["--model.adapter.init=eva"], "eva begins from the first samples of a ShardDataModule"),
    ],
)  # fmt: skip
def test_odd_configurations_are_refused_in_a_line(
    options: list[str], message: str, lessons: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ElfError, match=message) as error:
        fit(lessons, tmp_path / "run", STEPS, *options)
    assert "\n" not in str(error.value)


def test_a_run_goes_on_on_its_own_base_alone(
    lessons: list[str], tiny_language: Path, tmp_path: Path
) -> None:
    last = fit(lessons, tmp_path / "run", STOP)
    other = tmp_path / "other"
    shutil.copytree(tiny_language, other)
    state = load_file(other / "model.safetensors")
    from safetensors.torch import save_file

    name = next(iter(state))
    save_file({**state, name: state[name] + 1}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(ElfError, match=r"model\.base: the model of .* is not the one this run"):
        fit(lessons, tmp_path / "run", STEPS, f"--model.base={other}", f"--ckpt_path={last}")
    with pytest.raises(ElfError, match=r"base: .* was trained on the model .* name the base of"):
        cli.run(["export", f"--input={tmp_path / 'run'}", f"--output={tmp_path / 'merged'}",
                 f"--base={other}", "--target=merged"])  # fmt: skip


def test_other_targets_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    for target in ("kohya", "diffusers"):
        with pytest.raises(ElfError, match=f"target: {target} is of models that make pictures"):
            cli.run(["export", f"--input={runs['lora']}", f"--output={tmp_path / 'x'}",
                     f"--target={target}"])  # fmt: skip
    with pytest.raises(ElfError, match="is one file; a language model's adapter is a folder"):
        cli.run(["export", f"--input={runs['lora']}", f"--output={tmp_path / 'x.safetensors'}"])


def test_a_loss_that_is_not_finite_names_its_rows(lessons: list[str], tmp_path: Path) -> None:
    with pytest.raises(ElfError, match=r"the loss is (nan|inf) at step \d+ \(rows [0-9a-f]{16}"):
        fit(lessons, tmp_path, 12, "--model.optimizer.class_path=torch.optim.SGD",
            "--model.optimizer.init_args.lr=1e30", "--model.schedule.total_steps=12")  # fmt: skip


@pytest.mark.parametrize("source", ["", "adapter"])
def test_an_adapter_begins_where_another_ended(
    source: str, lessons: list[str], runs: dict[str, Path], tmp_path: Path
) -> None:
    """From a run or its exported folder, which is in 16 bit."""
    fit(lessons, tmp_path, 1, f"--model.adapter.start={runs['dora'] / source}",
        "--model.adapter.kind=dora", "--model.adapter.alpha=8",
        "--model.optimizer.init_args.lr=1e-12")  # fmt: skip
    before, after = read_trained(runs["dora"]), read_trained(tmp_path)
    for key, tensor in before.state.items():
        torch.testing.assert_close(after.state[key], tensor, rtol=1e-3, atol=1e-5)
