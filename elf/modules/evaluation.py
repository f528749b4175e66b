"""Evaluates an adapter against its base: the same prompts, seeds and noise, with and without."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from PIL import Image
from torch import Tensor

from elf import adapters, report
from elf.attributes import AttributeChecker, AttributeRates
from elf.embedders import CLIPEmbedder
from elf.errors import ElfError
from elf.export import read_adapter, read_base_options
from elf.files import atomic_path
from elf.generation import GenerationConfig
from elf.metrics import paired_difference, similarity_to_references, similarity_to_texts
from elf.modules.diffusion import DiffusionModule
from elf.report import VARIANTS
from elf.trigger import without_trigger


class ImageEvaluation(LightningModule):
    """Generates base and adapter pictures in pairs, measures both, and writes the report.

    Args:
        base: Folder or hub name of the base model.
        adapter: A run folder, a checkpoint, or an exported file.
        generation: Steps, guidance, size; the seeds come from the data.
        embedder: Folder or hub name of a CLIP model; None leaves its metrics out.
        trigger: The trigger word, removed from prompts before pictures are compared with them.
        tagger: Folder or hub name of a WD tagger that counts what the pictures show; None leaves
            the rates out.
        tag_threshold: A tag counts as shown from this probability on.
        concept: The tag of what the trigger stands for; counted apart from the other tags.
    """

    def __init__(
        self,
        base: str,
        adapter: str,
        generation: GenerationConfig = GenerationConfig(),  # noqa: B008 (a constant to jsonargparse)
        embedder: str | None = None,
        trigger: str | None = None,
        tagger: str | None = None,
        tag_threshold: float = 0.35,
        concept: str | None = None,
    ) -> None:
        super().__init__()
        self.base_name = base
        self.adapter_path = adapter
        self.generation = generation
        self.embedder_name = embedder
        self.trigger = trigger
        self.tagger_name = tagger
        self.tag_threshold = tag_threshold
        self.concept = concept
        self.skipped: dict[str, str] = {}
        self.subject: DiffusionModule

    def configure_model(self) -> None:
        """Load the base with the adapter in it."""
        if hasattr(self, "subject"):
            return
        config, state = read_adapter(self.adapter_path)
        options = read_base_options(self.adapter_path)
        self.subject = DiffusionModule(self.base_name, config, **options)
        self.subject.trainer = self.trainer
        self.subject.configure_model()
        self.subject.load_state_dict(state)

    def on_test_start(self) -> None:
        """Load the embedder and the tagger, or note why their metrics are left out."""
        self._embedder: CLIPEmbedder | None = None
        self._attributes: AttributeRates | None = None
        self._rows: list[tuple[str, int]] = []  # (prompt, seed)
        self._embeddings: dict[str, list[np.ndarray]] = {name: [] for name in VARIANTS}
        self._references: list[np.ndarray] = []
        self._errors: dict[str, list[Tensor]] = {name: [] for name in VARIANTS}
        self.skipped = {
            "similarity": "skipped: no embedder; set model.embedder to a CLIP model",
            "attributes": "skipped: no tagger; set model.tagger to a WD tagger",
        }
        try:
            if self.embedder_name is not None:
                self._embedder = CLIPEmbedder(self.embedder_name, self.device)
        except ElfError as error:
            self.skipped["similarity"] = f"skipped: {error}"
        if self.tagger_name is None:
            return
        try:
            checker = AttributeChecker(self.tagger_name, self.tag_threshold, str(self.device))
        except ElfError as error:
            self.skipped["attributes"] = f"skipped: {error}"
        else:
            self._attributes = AttributeRates(checker, self.trigger, self.concept)

    @property
    def folder(self) -> Path:
        """Where the report and the pictures go: the trainer's folder."""
        return Path(self.trainer.default_root_dir)

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Generate, embed a reference, or measure the denoising error, as the batch asks for."""
        if batch["task"] == "generate":
            self._generate(batch["prompt"], batch["seed"])
        elif batch["task"] == "reference" and self._embedder is not None:
            self._references.append(self._embedder.pictures(batch["picture"]))
        elif batch["task"] == "held_out":
            self._errors["adapter"].append(self.subject.stratified_errors(batch).cpu())
            self._errors["base"].append(self.subject.errors_of_base(batch).cpu())

    def _generate(self, prompts: list[str], seeds: list[int]) -> None:
        pictures: dict[str, list[Image.Image]] = {}
        for name in VARIANTS:
            off = self.subject.denoiser.adapter_off() if name == "base" else nullcontext()
            with off:
                pictures[name] = self.subject.generate(prompts, self.generation, seeds)
            for row, picture in enumerate(pictures[name], len(self._rows)):
                with atomic_path(self.picture_path(name, row)) as temporary:
                    picture.save(temporary, format="PNG")
            if self._embedder is not None:
                self._embeddings[name].append(self._embedder.pictures(pictures[name]))
            if self._attributes is not None:
                self._attributes.add(name, pictures[name])
        self._rows += list(zip(prompts, seeds, strict=True))

    def picture_path(self, variant: str, row: int) -> Path:
        """Return the file of a generated picture by variant and row of the plan."""
        return self.folder / "pictures" / variant / f"{row:04d}.png"

    def on_test_epoch_end(self) -> None:
        """Compute the metrics and write table, grid and ``metrics.json``."""
        rows = self._adapter_rows() + self._loss_rows() + self._similarity_rows()
        if self._attributes is None:
            rows.append(report.Row("attributes", None, None, None, self.skipped["attributes"]))
        else:
            rows += self._attributes.rows(self._rows)
        report.write(self.folder, rows, self._rows, self.picture_path)
        values = {
            f"{row.name}/{side}": value
            for row in rows
            for side, value in (("base", row.base), ("adapter", row.adapter))
            if value is not None
        }
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step=0)

    def _adapter_rows(self) -> list[report.Row]:
        """‖ΔW‖ / ‖W‖ over all adapted layers: did anything change at all?"""
        change = weight = 0.0
        for layer in adapters.layers(self.subject.denoiser):
            weight += float(layer.get_base_layer().weight.float().square().sum())
            change += float(adapters.delta_weight(layer).square().sum())
        return [report.Row("weight_change", None, (change / weight) ** 0.5, None, "‖ΔW‖ / ‖W‖")]

    def _loss_rows(self) -> list[report.Row]:
        if not self._errors["base"]:
            return [report.Row("held_out_loss", None, None, None, "skipped: no held-out pictures")]
        base, adapter = (torch.cat(self._errors[name]).double().numpy() for name in VARIANTS)
        difference = paired_difference(base, adapter)  # paired by picture, strata nested
        note = f"{len(base)} held-out picture{'s' * (len(base) > 1)}; lower is better"
        return [report.Row("held_out_loss", base.mean(), adapter.mean(), difference, note)]

    def _similarity_rows(self) -> list[report.Row]:
        if self._embedder is None:
            return [report.Row("similarity", None, None, None, self.skipped["similarity"])]
        plan = report.Plan(self._rows)
        embeddings = {name: np.concatenate(self._embeddings[name]) for name in VARIANTS}
        texts = self._embedder.texts([self._without_trigger(prompt) for prompt, _ in self._rows])
        scores = {"prompt": {n: similarity_to_texts(embeddings[n], texts) for n in VARIANTS}}
        notes = {"prompt": "CLIP-T, trigger removed; higher is better"}
        if self._references:
            references = np.concatenate(self._references)
            scores["subject"] = {
                n: similarity_to_references(embeddings[n], references) for n in VARIANTS
            }
            notes["subject"] = f"CLIP-I to {len(references)} training pictures; higher is better"
        return [
            report.Row(
                f"{name}_similarity",
                float(pair["base"].mean()),
                float(pair["adapter"].mean()),
                paired_difference(plan.table(pair["base"]), plan.table(pair["adapter"])),
                notes[name],
            )
            for name, pair in scores.items()
        ]

    def _without_trigger(self, prompt: str) -> str:
        if not self.trigger:
            return prompt
        return without_trigger(prompt, self.trigger)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse ``--ckpt_path``: the adapter is named by ``model.adapter``."""
        raise ElfError("--ckpt_path is not for this model; name the adapter by --model.adapter")
