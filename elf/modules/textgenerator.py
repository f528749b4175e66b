"""Answers of a language model, as a Lightning module for the predict loop."""

import math
import time
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import LightningModule

from elf.answers import Identity
from elf.errors import ElfError
from elf.export.trained import Trained, read_trained
from elf.language.asking import Asking
from elf.language.base import LanguageBase
from elf.language.generation import Decoding
from elf.language.prompts import Prompt
from elf.language.speaker import Speaker
from elf.quantized import Kind
from elf.training.building import base_dtype


class TextGenerator(LightningModule):
    """A language model, alone or with an adapter, that answers prompts.

    What it draws for a prompt depends on the prompt's id and the seed, not on the batch. A model
    that is asked nothing is not loaded.

    Args:
        base: A folder, a hub name, or a .gguf file.
        adapter: A run's folder, a checkpoint, or a folder in peft's form; none asks the base.
        strength: Factor on the adapter's update; 0 is the base itself.
        generation: How tokens are chosen.
        plain_prompts: Continue a row's ``prompt`` as it stands, as rows with prompt and completion
            are trained; otherwise it is what a user says, if the model has a chat template.
        quantization: How the frozen linear layers are kept, nf4 or int8; none in the trainer's
            precision.

    Attributes:
        seconds: What tokenising and the model took so far.
        made: Tokens of answers so far.
    """

    def __init__(
        self,
        base: str,
        adapter: str | None = None,
        strength: float = 1.0,
        generation: Decoding = Decoding(),  # noqa: B008 (a constant to jsonargparse)
        plain_prompts: bool = False,
        quantization: Kind | None = None,
    ) -> None:
        super().__init__()
        if not math.isfinite(strength):
            raise ElfError(f"model.strength: {strength} is no factor; 1 is the adapter as trained")
        self.base_name, self.adapter, self.strength = base, adapter, strength
        self.generation, self.plain_prompts = generation, plain_prompts
        self.quantization = quantization
        self.seconds = {"tokens": 0.0, "model": 0.0}
        self.made = 0
        self._asking: Asking | None = None
        self._speaker: Speaker | None = None

    @cached_property
    def language(self) -> LanguageBase:
        """The base model."""
        return LanguageBase(self.base_name)

    @cached_property
    def trained(self) -> Trained | None:
        """The adapter.

        Raises:
            ElfError: If it is none, or was trained on another model.
        """
        if self.adapter is None:
            return None
        trained = read_trained(self.adapter)
        trained.refuse_other_language(self.language.fingerprint, self.base_name, "model.adapter")
        return trained

    @property
    def dtype_here(self) -> torch.dtype:
        """Of the base's weights, by the trainer's precision."""
        return base_dtype(str(self._trainer.precision if self._trainer else "32-true"))

    @cached_property
    def identity(self) -> Identity:
        """Who answers, and how, for the answers' lines."""
        trained, generation = self.trained, self.generation
        adapter = None
        if trained is not None:
            adapter = {
                "name": self.adapter,
                "sha256": trained.fingerprint[:16],
                "strength": self.strength,
            }
        drawn = {"top_p": generation.top_p, "seed": generation.seed}
        return {
            "model": {
                "name": self.base_name,
                "sha256": self.language.fingerprint[:16],
                "dtype": str(self.dtype_here).removeprefix("torch."),
                **({"quantization": self.quantization} if self.quantization else {}),
            },
            "adapter": adapter,
            "generation": {
                "max_new_tokens": generation.max_new_tokens,
                "temperature": generation.temperature,
                **(drawn if generation.temperature else {}),
                **({"plain_prompts": True} if self.plain_prompts else {}),
            },
        }

    def predict_step(self, batch: Iterable[Prompt], batch_idx: int) -> list[dict[str, Any]]:
        """Return a record for each prompt of a batch; the first batch loads the model.

        Returns:
            ``id``, the row's own keys, ``answer``, its ``tokens``, how it ``ended``, and who
            answered; or ``id``, ``where`` and ``reason`` if it cannot be answered.
        """
        start = time.perf_counter()
        refused, asked = self._tokens(batch)
        self.seconds["tokens"] += time.perf_counter() - start
        start = time.perf_counter()
        found = {}
        if asked:
            seeds = [f"{self.generation.seed} {key}" for key in asked]
            rows = self._speaking().answer(list(asked.values()), self.generation, seeds)
            found = dict(zip(asked, rows, strict=True))
        self.seconds["model"] += time.perf_counter() - start
        records = []
        for prompt in batch:
            if prompt.id in refused:
                records.append(refused[prompt.id])
                continue
            answer = found[prompt.id]
            self.made += len(answer.tokens)
            records.append(
                {
                    "id": prompt.id,
                    **prompt.own,
                    "answer": self._asked.words(answer.tokens),
                    "tokens": len(answer.tokens),
                    "ended": answer.ended,
                    "asked": prompt.asked,
                    **self.identity,
                }
            )
        return records

    def _tokens(self, batch: Iterable[Prompt]) -> tuple[dict[str, Any], dict[str, list[int]]]:
        refused, asked = {}, {}
        for prompt in batch:
            room = self.generation.max_new_tokens
            try:
                asked[prompt.id] = self._asked.tokens(prompt.row, room, self.plain_prompts)
            except ElfError as error:
                where = prompt.row.where
                reason = str(error).removeprefix(f"{where}: ")
                refused[prompt.id] = {"id": prompt.id, "where": where, "reason": reason}
        return refused, asked

    @property
    def _asked(self) -> Asking:
        if self._asking is None:
            self._asking = Asking(self.language)
        return self._asking

    def _speaking(self) -> Speaker:
        if self._speaker is None:
            self._speaker = Speaker(
                self.language, self.dtype_here, self.trainer.strategy.root_device, self.quantization
            )
            self._speaker.take(self.trained, self.strength)
        return self._speaker

    def on_predict_end(self) -> None:
        """Free the model."""
        self._speaker = None
