"""A language model's steps on a GPU: captured, with flash attention among packed documents."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elf import trainer
from elf.adapters import AdapterConfig
from elf.datamodules.textloader import Rows
from elf.language.attention import register, varlen_works
from elf.language.base import LanguageBase
from elf.language.network import LanguageNetwork, build_language

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
LENGTH, STEPS = 128, 12
CUDA = torch.device("cuda")


class Documents:
    """Documents of random tokens, all trained on."""

    def __init__(self, lengths: list[int]) -> None:
        random = np.random.default_rng(0)
        self.ids = np.arange(1, len(lengths) + 1, dtype=np.uint64)
        self.lengths = self.trained_counts = np.array(lengths, np.int64)
        self._tokens = [random.integers(3, 500, n) for n in lengths]

    def document(self, number: int) -> tuple[Any, Any]:
        tokens = self._tokens[number]
        return tokens, np.ones(len(tokens), bool)


def network(base: Path, kind: Any, dtype: torch.dtype, varlen: bool) -> LanguageNetwork:
    register()
    torch.manual_seed(0)
    config = AdapterConfig(kind, rank=4, targets="attention+feedforward")
    made = build_language(LanguageBase(str(base)), config, dtype, varlen=varlen).network
    draw = torch.Generator().manual_seed(0)
    for name, parameter in made.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(0, 0.2, generator=draw)
    return made.to(CUDA)


def found(net: LanguageNetwork, made: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of a batch's errors, in all and by row, and the gradient of its mean."""
    batch = made.batch(range(len(made)))
    on_gpu = {k: v.to(CUDA) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    errors = net.errors(on_gpu)
    (errors.errors.sum() / errors.trained.sum()).backward()
    gradient = torch.cat([p.grad.flatten() for p in net.trained_parameters() if p.grad is not None])
    net.zero_grad()
    return errors.errors.detach().sum(), gradient


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_flash_attention_of_packed_rows_is_that_of_documents_alone(
    kind: str, dtype: torch.dtype, tiny_language: Path
) -> None:
    """Both are as far from float32 as 16 bit is; a document that sees another is far beyond."""
    assert varlen_works(CUDA, dtype)
    documents = Documents([40, 61, 13, 90, 7, 30])
    packs, edges = [np.array([0, 1, 2]), np.array([3, 4, 5])], np.full(2, LENGTH)
    packed = Rows(documents, packs, edges, 0, packed=True)
    single = [np.array([n]) for n in range(6)]
    alone = Rows(documents, single, np.full(6, LENGTH), 0, packed=False)
    exact, slope = found(network(tiny_language, kind, torch.float32, False), alone)
    for varlen, rows in ((True, packed), (False, packed), (True, alone)):
        total, gradient = found(network(tiny_language, kind, dtype, varlen), rows)
        assert float((total - exact).abs() / exact) < 2e-3, varlen
        cosine = torch.nn.functional.cosine_similarity(gradient, slope, dim=0)
        assert float(cosine) > 0.999, varlen
    one = Rows(documents, [np.array([1, 0])], np.array([LENGTH]), 0, packed=True)
    two = Rows(documents, [np.array([1])], np.array([LENGTH]), 0, packed=True)
    net = network(tiny_language, kind, dtype, True)

    def second(made: Rows, end: int) -> torch.Tensor:
        batch = {
            k: v.to(CUDA) if isinstance(v, torch.Tensor) else v for k, v in made.batch([0]).items()
        }
        return net.errors(batch).errors[0, :end].detach()

    assert torch.equal(second(one, 60), second(two, 60))


OPTIONS: dict[str, list[str]] = {
    "packed": [],
    "padded": ["--data.packing=false", "--data.length_step=32"],
    "accumulation": ["--trainer.accumulate_grad_batches=2"],
    "dora": ["--model.adapter.kind=dora"],
    "checkpointing": ["--model.gradient_checkpointing=true"],
    "nf4": ["--model.quantization=nf4"],
    "fp16": ["--trainer.precision=16-mixed"],
    "average": ["--model.ema={decay: 0.9}"],
    "fp32": ["--trainer.precision=32-true"],
    "answers": ["--trainer.callbacks=[{class_path: SampleTexts, init_args: {prompts: [Hello.], "
                "every_n_steps: 6, generation: {max_new_tokens: 4}}}]"],
}  # fmt: skip


def fit(lessons: list[str], folder: Path, *options: str) -> tuple[list[float], Any]:
    cli = trainer.run(
        "fit",
        [
            *lessons,
            f"--trainer.default_root_dir={folder}",
            "--trainer.accelerator=cuda",
            "--trainer.precision=bf16-mixed",
            f"--trainer.max_steps={STEPS}",
            "--trainer.val_check_interval=6",
            "--model.optimizer.init_args.fused=true",
            *options,
        ],
    )
    with (folder / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    return losses, cli.model.stepper


@pytest.mark.parametrize("name", OPTIONS)
def test_captured_steps_are_eager_ones(name: str, lessons: list[str], tmp_path: Path) -> None:
    options = OPTIONS[name]
    captured, stepper = fit(lessons, tmp_path / "captured", *options)
    assert stepper.passes.eager == 0, "a step was not captured"
    assert stepper.passes.replays >= STEPS and stepper.update.replays == STEPS
    eager, plain = fit(lessons, tmp_path / "eager", "--model.cuda_graphs=false", *options)
    assert plain.passes.replays == 0
    assert len(captured) == STEPS
    noise = 1e-5 if name == "fp32" else 2e-2
    assert captured == pytest.approx(eager, abs=noise)
    assert captured[-1] < captured[0]


def test_memory_is_free_of_logits(lessons: list[str], tmp_path: Path) -> None:
    """A vocabulary of 100,000 and 16,384 tokens: logits alone would take 6.5 GB in float32."""
    from elf.language.loss import token_errors

    hidden = torch.randn(1 << 14, 64, device=CUDA, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(100_000, 64, device=CUDA, dtype=torch.bfloat16)
    labels = torch.randint(0, 100_000, (1 << 14,), device=CUDA)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    token_errors(hidden, weight, labels)[0].sum().backward()
    assert torch.cuda.max_memory_allocated() - before < 1 << 30


def test_a_run_keeps_packed_documents_apart(
    lessons: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `elf fit` gives the network says the borders: each token's error is a mask's."""
    seen: dict[str, torch.Tensor] = {}
    errors = LanguageNetwork.errors

    def three_ways(self: LanguageNetwork, batch: Any) -> Any:
        if not seen and "borders" in batch:  # validation packs nothing
            assert self.varlen
            tokens = batch["tokens"]
            places = torch.arange(tokens.numel(), device=tokens.device)
            documents = torch.searchsorted(batch["borders"][1:].long(), places, right=True)
            mixed = {key: batch[key] for key in ("tokens", "labels")}
            with torch.no_grad():
                seen["flash"] = errors(self, batch).errors
                seen["mixed"] = errors(self, mixed).errors
                self.varlen = False
                apart = batch | {"documents": documents.view_as(tokens)}
                seen["masked"] = errors(self, apart).errors
                self.varlen = True
        return errors(self, batch)

    monkeypatch.setattr(LanguageNetwork, "errors", three_ways)
    options = ["--model.base=models/tiny/language", f"--data.tokens={tmp_path / 'tokens'}"]
    trainer.prepare([*lessons, *options])
    fit(lessons, tmp_path / "run", *options, "--model.cuda_graphs=false")
    noise = (seen["flash"] - seen["masked"]).abs().mean()
    mixture = (seen["mixed"] - seen["masked"]).abs().mean()
    assert 0 < noise < 0.2 * mixture, (noise, mixture)
