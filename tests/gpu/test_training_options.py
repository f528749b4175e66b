"""What of a training needs a CUDA device: the fp16 scaler with every kind of optimizer and adapter.

Run with `pytest -m gpu`. On a CPU the same options are bit-exact when a run goes on
(tests/modules/test_training_options.py); here sums may come in another order.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from elf import trainer
from elf.export import export_diffusers
from elf.training.checkpoints import evaluated_state, read_checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def optimizer(path: str, *arguments: str) -> list[str]:
    given = [f"--model.optimizer.init_args.{argument}" for argument in arguments]
    return [f"--model.optimizer.class_path={path}", *given]


TEXT = ["--model.adapter.text_targets=attention", "--data.text_states=live"]
# with dropout it would not be captured, which a warning says
CHECKPOINTING = ["--model.gradient_checkpointing=true", "--model.adapter.dropout=0"]
OPTIONS = {
    "fused adamw, ema, accumulation": [
        *optimizer("torch.optim.AdamW", "lr=2e-3", "fused=true"),
        "--model.ema.decay=0.9",
        "--trainer.accumulate_grad_batches=2",
    ],
    "plain adamw, dora": [
        *optimizer("torch.optim.AdamW", "lr=2e-3", "fused=false"),
        "--model.adapter.kind=dora",
    ],
    "adamw 8 bit": optimizer("bitsandbytes.optim.AdamW8bit", "lr=2e-3", "min_8bit_size=256"),
    "prodigy": optimizer("prodigyopt.Prodigy", "lr=1.0"),
    "schedule-free": optimizer("schedulefree.AdamWScheduleFree", "lr=2e-3"),
    "nf4, dora, checkpointing": [
        "--model.quantization=nf4",
        "--model.adapter.kind=dora",
        *CHECKPOINTING,
    ],
    "int8": ["--model.quantization=int8"],
    "eva, dora": ["--model.adapter.init=eva", "--model.adapter.kind=dora"],
    "corda, nf4": ["--model.adapter.init=corda", "--model.quantization=nf4"],
    "lora_ga, text encoder, checkpointing": [
        "--model.adapter.init=lora_ga",
        *TEXT,
        *CHECKPOINTING,
    ],
    "text encoder": [*TEXT, "--data.prior_preservation=0.33"],
    "text encoder, checkpointing": [*TEXT, *CHECKPOINTING],
    "text encoder, long captions": [*TEXT, "--model.caption_tokens=150"],
    "huber, noise": [
        "--model.objective.error=huber",
        "--model.objective.noise_offset=0.1",
        "--model.objective.input_perturbation=0.1",
    ],
}


def fit(arguments: list[str], folder: Path, steps: int, *more: str) -> dict[str, Any]:
    trainer.fit(
        [
            *arguments,
            f"--trainer.default_root_dir={folder}",
            "--trainer.accelerator=cuda",
            "--trainer.devices=1",
            f"--trainer.max_steps={steps}",
            "--trainer.val_check_interval=4",
            "--trainer.num_sanity_val_steps=0",
            "--model.validation_strata=2",
            "--trainer.callbacks=[{class_path: AdapterCheckpoint, init_args: {every_n_steps: 2}}]",
            *more,
        ]
    )
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("name", OPTIONS)
def test_it_trains_goes_on_and_exports(
    name: str, precision: str, training: list[str], labelled: Path, tmp_path: Path
) -> None:
    arguments = [*training, *OPTIONS[name], f"--trainer.precision={precision}"]
    if "text encoder" in name:
        arguments.append(f"--data.shards={labelled / 'shards-live'}")
        trainer.prepare(arguments)
    whole = fit(arguments, tmp_path / "whole", 8)
    fit(arguments, tmp_path / "parts", 4)
    parts = fit(arguments, tmp_path / "parts", 8, "--ckpt_path=last")
    assert ("MixedPrecision" in whole) == (precision == "16-mixed")
    assert whole.get("MixedPrecision") == parts.get("MixedPrecision")
    state = evaluated_state(whole)
    for key, tensor in evaluated_state(parts).items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, state[key], rtol=1e-2, atol=2e-4)
    assert any(tensor.any() for key, tensor in state.items() if ".lora_B." in key)
    assert export_diffusers(tmp_path / "whole", tmp_path / "adapter").exists()


def test_clipping_of_scaled_gradients_is_of_their_true_norm(
    training: list[str], tmp_path: Path
) -> None:
    """A fused optimizer would unscale within its step, after the clipping."""
    norms = {}
    for fused in ("true", "false"):
        folder = tmp_path / fused
        arguments = [
            *training,
            *optimizer("torch.optim.AdamW", "lr=2e-3", f"fused={fused}"),
            "--trainer.precision=16-mixed",
            "--trainer.deterministic=true",  # Adam makes steps of sums' rounding, where they are 0
            "--trainer.gradient_clip_val=0.001",  # small enough to bite
            "--trainer.log_every_n_steps=1",
        ]
        state = fit(arguments, folder, 3)["state_dict"]
        rows = (folder / "metrics.csv").read_text().splitlines()
        column = rows[0].split(",").index("train/grad_norm")
        norms[fused] = [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]
        norms[fused + " weights"] = torch.cat([tensor.flatten() for tensor in state.values()])
    assert norms["true"] == pytest.approx(norms["false"], rel=1e-2)
    assert max(norms["true"]) < 10  # not the scaled ones, which are 65536 times as large
    torch.testing.assert_close(norms["true weights"], norms["false weights"], rtol=1e-2, atol=2e-4)


def test_a_loss_that_is_not_finite_stops_the_run(training: list[str], tmp_path: Path) -> None:
    from elf.errors import ElfError

    arguments = [*training, "--model.optimizer.init_args.lr=1e30", "--trainer.precision=bf16-mixed"]
    with pytest.raises(ElfError, match=r"the loss is (nan|inf) at step \d+ \(pictures"):
        fit(arguments, tmp_path, 12)
