"""Trains a LoRA or DoRA adapter on a causal language model."""

from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable
from torch import Tensor

from elf.adapters import AdapterConfig
from elf.language.attention import register, varlen_works
from elf.language.base import LanguageBase
from elf.language.generation import TextGeneration, complete
from elf.language.network import LanguageNetwork, build_language
from elf.language.validation import DocumentErrors, TextValidation
from elf.modules.adapter import AdapterModule
from elf.quantized import Kind
from elf.stepping.static import Batch
from elf.training.averaging import EMAConfig
from elf.training.building import base_dtype
from elf.training.optimization import LearningRates, OptimizerFactory, adamw
from elf.training.schedules import ScheduleConfig
from elf.training.validationsets import HELD_OUT


class LanguageModule(AdapterModule):
    """An adapter in training: rows of tokens in, the errors of those that are learnt out.

    The base is frozen, in the trainer's 16-bit type if it has one; the adapter is float32.

    Args:
        base: The base model: a folder, a hub name, or a .gguf file.
        adapter: What is trained.
        optimizer: Optimizer, given the adapter's parameters.
        learning_rates: Factors on the optimizer's rate, such as lora_plus.
        schedule: How the learning rate changes over the run.
        lr_scheduler: A schedule of torch's instead, advanced once an optimizer step.
        ema: A moving average of the adapter, which is evaluated and exported; null for none.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, up to a
            third more time.
        quantization: How the frozen linear layers are kept, nf4 or int8; null in 16 bit.
        cuda_graphs: On a GPU, launch a step as one recorded graph instead of thousands of kernels.
    """

    network: LanguageNetwork
    network_title = "the model"
    samples = "rows"

    def __init__(
        self,
        base: str,
        adapter: AdapterConfig = AdapterConfig(),  # noqa: B008 (a constant to jsonargparse)
        optimizer: OptimizerFactory = adamw,
        learning_rates: LearningRates = LearningRates(),  # noqa: B008
        schedule: ScheduleConfig = ScheduleConfig(),  # noqa: B008
        lr_scheduler: LRSchedulerCallable | None = None,
        ema: EMAConfig | None = None,
        gradient_checkpointing: bool = False,
        quantization: Kind | None = None,
        cuda_graphs: bool = True,
    ) -> None:
        super().__init__(adapter, optimizer, learning_rates, schedule, lr_scheduler, ema)
        self.base_name = base
        self.base_options: dict[str, Any] = {"quantization": quantization}
        self.gradient_checkpointing, self.quantization = gradient_checkpointing, quantization
        self.cuda_graphs = cuda_graphs
        self._language: LanguageBase | None = None
        self._base_errors: dict[str, DocumentErrors] = {}  # with the adapter off
        self._validation = TextValidation()

    @property
    def language(self) -> LanguageBase:
        """The base model, looked up at first use."""
        if self._language is None:
            self._language = LanguageBase(self.base_name)
        return self._language

    @property
    def networks(self) -> LanguageNetwork:
        """The model, the adapter in it."""
        return self.network

    @property
    def base_sha256(self) -> str:
        """The hash of the model's weights."""
        return self.language.fingerprint

    def chosen(self) -> dict[str, Any]:
        """Return what must not change when a run goes on."""
        return {"quantization": self.quantization}

    def configure_model(self) -> None:
        """Load the model, freeze it and put a new adapter into it."""
        if hasattr(self, "network"):
            return
        register()
        trainer = self._trainer
        device = trainer.strategy.root_device if trainer else self.device
        dtype = base_dtype(self.run_precision)
        self.network, self.injected = build_language(
            self.language,
            self.adapter,
            dtype,
            self.gradient_checkpointing,
            self.quantization,
            device,
            varlen_works(device, dtype),
        )
        self.watch_weights()

    # --- the step ---------------------------------------------------------------------------

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Leave on the CPU what no network reads."""
        unread = {"members", "documents" if self.network.varlen else "borders"}
        kept = {key: value for key, value in batch.items() if key not in unread}
        return super().on_before_batch_transfer(kept, dataloader_idx)

    def training_errors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return each row's mean error a token (B,), and its share of the step's."""
        return self.network.training_errors(batch)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Return the mean over the step's tokens, and each row's own."""
        result = super().training_step(batch, batch_idx)
        accuracy = self.network.accuracy.clone()
        self.log("train/accuracy", accuracy, logger=self._logs_steps, batch_size=1)
        return result

    # --- validation -------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        """Put the averaged weights in place, and begin with no document."""
        self._validation = TextValidation()
        super().on_validation_start()

    def validation_step(
        self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Measure each document's tokens, with the adapter and without it.

        ``val/ratio`` compares perplexities: below 1 the adapter has learnt something.
        """
        found, base = self.document_errors(batch), self.errors_of_base(batch)
        self._validation.add(batch.get("kind", HELD_OUT), batch["id"], found, base)

    @torch.no_grad()
    def document_errors(self, batch: dict[str, Any]) -> list[DocumentErrors]:
        """Return what is found of each row of a batch, which are documents each."""
        found = self.network.errors(batch)
        columns = found.errors.double().sum(1), found.trained.sum(1), found.correct.sum(1)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [DocumentErrors(*row) for row in rows]

    def errors_of_base(self, batch: dict[str, Any]) -> list[DocumentErrors]:
        """Return the same with the adapter off, measured once for each document."""
        if any(key not in self._base_errors for key in batch["id"]):
            with self.network.adapter_off():
                found = self.document_errors(batch)
            self._base_errors |= dict(zip(batch["id"], found, strict=True))
        return [self._base_errors[key] for key in batch["id"]]

    def on_validation_epoch_end(self) -> None:
        """Bring the documents of all processes together and log the means."""
        if self.trainer.world_size > 1:
            self._validation.gather()
        for name, value in self._validation.metrics().items():
            self.log(name, value, prog_bar=name in ("val/perplexity", "val/ratio"))

    # --- text -------------------------------------------------------------------------------

    def complete(self, prompts: list[list[int]], config: TextGeneration) -> list[list[int]]:
        """Return what the model, with the adapter as it is now, says behind each prompt."""
        with self.weights.in_place():
            return complete(self.network, prompts, config, self.device)
