"""Evaluates adapters of a language model against it: the same prompts and documents."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from elf import __version__
from elf.environment import versions
from elf.errors import ElfError
from elf.evaluation import schema
from elf.evaluation.adapterfile import open_adapter
from elf.evaluation.kept import Kept
from elf.evaluation.plan import BASE, Variant, adapter_names
from elf.evaluation.rows import weight_rows
from elf.evaluation.schema import TEXT, Row, TextMetrics, Verdict
from elf.evaluation.textrows import (
    Documents,
    answer_rows,
    change_rows,
    document_rows,
    old_answer_rows,
    old_document_rows,
)
from elf.evaluation.textverdict import TextAtStrength, indicative
from elf.evaluation.verdict import judge
from elf.export.reading import PEFT_CONFIG, of_run
from elf.export.trained import Trained
from elf.language.base import LanguageBase
from elf.language.generation import TextGeneration
from elf.language.tokenizing import tokenizer_hash
from elf.language.validation import DocumentErrors
from elf.modules.evaluating import Evaluation
from elf.modules.language import LanguageModule
from elf.processes import gather
from elf.training.adapter_norms import relative_change
from elf.training.validationsets import HELD_OUT, TRAINED, UNRELATED


class TextEvaluation(Evaluation[LanguageModule]):
    """Has base and adapters answer prompts and read documents, measures that, writes the report.

    What is made is kept with what it was made of: after an interruption the same command goes on.

    Args:
        adapter: One or several: a run's folder, a checkpoint, or a folder in peft's form each.
        base: The base model: a folder, a hub name, or a .gguf file; null takes that of the first
            adapter's run.
        strengths: Factors on the adapters' updates, each of which is measured.
        generation: How answers are made.
        plain_prompts: Continue a row's ``prompt`` as it stands, as rows with prompt and completion
            are trained; otherwise it is what a user says, if the model has a chat template.
        base_generations: Folder in which the base's answers and errors are kept for other
            evaluations; null keeps them in this one.

    Raises:
        ElfError: If a value makes no sense, with its key; if no base is named.
    """

    def __init__(
        self,
        adapter: list[str] | str,
        base: str | None = None,
        strengths: list[float] = [1.0],  # noqa: B006 (read only)
        generation: TextGeneration = TextGeneration(),  # noqa: B008 (a constant to jsonargparse)
        plain_prompts: bool = False,
        base_generations: str | None = ".cache/evaluation/text",
    ) -> None:
        super().__init__(adapter, strengths)
        self.base_name = base or base_of(self.paths[0])
        self.generation, self.plain_prompts = generation, plain_prompts
        self.base_generations = base_generations
        self._language: LanguageBase | None = None
        self._answers: dict[str, dict[int, str]] = {v.name: {} for v in self.variants}
        self._errors: dict[str, dict[str, dict[str, DocumentErrors]]] = {
            v.name: {kind: {} for kind in (HELD_OUT, TRAINED, UNRELATED)} for v in self.variants
        }

    @property
    def language(self) -> LanguageBase:
        """The base model, looked up at first use."""
        if self._language is None:
            self._language = LanguageBase(self.base_name)
        return self._language

    def setup(self, stage: str) -> None:
        """Read what the adapters are, and refuse what is of another base, before anything is made.

        Raises:
            ElfError: If one is none, or was not trained on this base; or if not all is to be done.
        """
        self.refuse_a_part("fewer data.prompts or data.documents")
        self.tell_what_is_replaced()
        if not hasattr(self._data, "encoded"):
            raise ElfError("data: TextEvaluation takes a TextEvaluationSet; set data.class_path")
        self.files = [open_adapter(path) for path in self.paths]
        for file in self.files:
            fingerprint = self.language.fingerprint
            file.refuse_other_language(fingerprint, self.base_name, "model.adapter")
        if len({file.base_options.get("quantization") for file in self.files}) > 1:
            raise ElfError(
                "model.adapter: they were trained beside bases of another quantization, so they "
                "have none in common; evaluate them one by one"
            )
        shared = Path(self.base_generations) if self.base_generations else None
        self._kept = Kept(self.folder / "kept", shared)
        self._tokenizer_hash = tokenizer_hash(self.language.tokenizer)

    # --- generating -------------------------------------------------------------------------

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Answer prompts, or read documents, with the adapter that the batch names."""
        for variant in self._due(batch["adapter"]):
            if batch["task"] == "answer":
                self._answer(variant, batch["numbers"])
            else:
                self._read(variant, batch)

    def _due(self, adapter: int) -> list[Variant]:
        """Return whose turn it is: an adapter's, and the base's beside the first."""
        return [BASE] * (adapter == 0) + self._of(adapter)

    def _answer(self, variant: Variant, numbers: Sequence[int]) -> None:
        asked = [self._data.encoded[number] for number in numbers]
        sampling = asdict(self.generation)
        del sampling["batch_size"]  # the batch's own prompts say it

        def make() -> list[Any]:
            size, otherwise = self.generation.batch_size, "lower model.generation.max_new_tokens"
            with self._room("model.generation.batch_size", size, otherwise):
                with self._as(variant) as subject:
                    found = subject.complete(asked, self.generation)
            decode = self.language.tokenizer.decode
            return [decode(tokens, skip_special_tokens=True) for tokens in found]

        made_of = {"task": "answer", "prompts": asked, "sampling": sampling}
        texts = self._kept.once(variant, self._made_of(variant) | made_of, make)
        self._answers[variant.name] |= dict(zip(numbers, texts, strict=True))

    def _read(self, variant: Variant, batch: dict[str, Any]) -> None:
        def make() -> list[Any]:
            size, otherwise = self._data.batch_size, "lower data.length"
            with self._room("data.batch_size", size, otherwise), self._as(variant) as subject:
                return [list(each) for each in subject.document_errors(batch)]

        made_of = {
            "task": "read",
            "documents": batch["id"],
            "length": batch["tokens"].shape[1],
            "made": batch["made"],
        }
        values = self._kept.once(variant, self._made_of(variant) | made_of, make)
        found = [DocumentErrors(*each) for each in values]
        self._errors[variant.name][batch["kind"]] |= dict(zip(batch["id"], found, strict=True))

    def _made_of(self, variant: Variant) -> dict[str, Any]:
        """Return what decides a variant's answers and errors, beside prompts and documents."""
        made_of = {
            "base": self.language.fingerprint,
            "quantization": self.files[0].base_options.get("quantization"),
            "tokenizer": self._tokenizer_hash,
            "precision": str(self.trainer.precision),
            "device": self.device.type,
            **versions(("transformers",)),
        }
        return self._with_adapter_of(variant, made_of)

    def with_adapter(self, file: Trained) -> LanguageModule:
        """Return a module for an adapter in the model, not built yet."""
        return LanguageModule(
            self.base_name,
            file.config,
            quantization=file.base_options.get("quantization"),
            cuda_graphs=False,
        )

    # --- measuring --------------------------------------------------------------------------

    def gather_found(self) -> None:
        """Bring the answers and errors of all processes together."""
        for answers, errors in gather((self._answers, self._errors)):
            for name, found in answers.items():
                self._answers[name] |= found
            for name, kinds in errors.items():
                for kind, documents in kinds.items():
                    self._errors[name][kind] |= documents

    def measure(self) -> TextMetrics:
        """Return what was found; the model has left the device."""
        for variant in self.variants:
            if variant != BASE:
                self._weigh(variant)
        self._forget()
        rows = self._rows()
        names = adapter_names(self.paths)
        verdicts = [
            judge(name, self._of(number), rows, TextAtStrength) for number, name in enumerate(names)
        ]
        asked = self._data.asked
        return TextMetrics(
            verdict=Verdict(tuple(verdicts), *indicative(rows)),
            variants=self._named_variants(names),
            rows=tuple(rows),
            settings=self._settings(),
            hashes={**self._data.hashes, "base": self.language.fingerprint}
            | {name: file.fingerprint for name, file in zip(names, self.files, strict=True)},
            versions={"elf": __version__, **versions(("torch", "transformers", "peft"))},
            kind=TEXT,
            prompts=tuple(schema.Prompt(a.text, a.reference, a.forgetting) for a in asked),
            answers=tuple(
                schema.Answer(variant.name, place, self._answers[variant.name][place])
                for variant in self.variants
                for place in range(len(asked))
            ),
        )

    def _weigh(self, variant: Variant) -> None:
        """Keep ‖ΔW‖ / ‖W‖ over all adapted layers: did anything change at all?"""

        def make() -> list[Any]:
            with self._as(variant) as subject:
                return [relative_change(subject.network.parts.values())]

        made_of = self._made_of(variant) | {"task": "weigh"}
        (self._weight_changes[variant.name],) = self._kept.once(variant, made_of, make)

    def _rows(self) -> list[Row]:
        asked = self._data.asked
        new, old = ([n for n, a in enumerate(asked) if a.forgetting == of] for of in (False, True))
        drawn = self.generation.temperature > 0
        note = f"drawn at temperature {self.generation.temperature:g}" if drawn else "greedy"
        held_out = self._documents(HELD_OUT, self._data.missing)
        trained = self._documents(TRAINED, "no trained documents; give data.tokens")
        return [
            *weight_rows(self._weight_changes, self.variants),
            *change_rows(self._said(range(len(asked))), note),
            *answer_rows(self._said(new), [asked[n].reference for n in new]),
            *document_rows(held_out, trained),
            *old_answer_rows(self._said(old), [str(asked[n].reference) for n in old]),
            *old_document_rows(self._documents(UNRELATED, "no such text; give data.forgetting")),
        ]

    def _said(self, places: Sequence[int]) -> dict[str, list[str]]:
        return {name: [found[n] for n in places] for name, found in self._answers.items()}

    def _documents(self, kind: str, why: str) -> Documents:
        sizes = self._data.sizes(self.language.tokenizer, kind)
        names = sorted(sizes)
        errors = {name: [found[kind][key] for key in names] for name, found in self._errors.items()}
        return Documents(errors, [sizes[key] for key in names], why)

    def _settings(self) -> dict[str, Any]:
        names = ("prompts", "tokens", "documents", "forgetting", "length", "train_on", "batch_size")
        return self.settings_of(("plain_prompts",), names)


def base_of(path: str) -> str:
    """Return the base that a run's configuration, or peft's, names.

    Raises:
        ElfError: If none does.
    """
    found = of_run(path, "model", "base")
    config = Path(path) / PEFT_CONFIG
    if found is None and config.is_file():
        try:
            found = json.loads(config.read_text("utf-8")).get("base_model_name_or_path")
        except (OSError, ValueError, AttributeError):
            pass
    if not found:
        raise ElfError(f"model.base: no config.yaml beside {path} names one; give model.base")
    return str(found)
