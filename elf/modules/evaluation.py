"""Evaluates adapters against their base: the same prompts, seeds and noise, with and without."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from elf import __version__, objective
from elf.adapters import at_strength
from elf.bases import Base, open_base
from elf.environment import versions
from elf.errors import ElfError
from elf.evaluation import schema
from elf.evaluation.adapterfile import open_adapter
from elf.evaluation.attributes import refuse_unknown_concept
from elf.evaluation.losses import as_trained, loss_curve, loss_rows
from elf.evaluation.measuring import Measuring, Models, nearest_pictures
from elf.evaluation.plan import BASE, Plan, Variant, adapter_names, check_sampling
from elf.evaluation.rows import weight_rows
from elf.evaluation.schema import Metrics, Row, Verdict
from elf.evaluation.sheet import write_sheet
from elf.evaluation.store import PictureStore, picture_key
from elf.evaluation.verdict import indicative, judge
from elf.export.trained import Trained
from elf.generation import GenerationConfig
from elf.modules.diffusion import DiffusionModule
from elf.modules.evaluating import Evaluation
from elf.objective import ObjectiveConfig
from elf.training.adapter_norms import relative_change
from elf.training.validation import ValidationRun


class ImageEvaluation(Evaluation[DiffusionModule]):
    """Generates pictures of base and adapters in pairs, measures them, and writes the report.

    Pictures are kept with what they were made of: after an interruption the same command goes on.

    Args:
        base: The base model: a folder in diffusers' layout, a hub name, or a .safetensors file.
        adapter: One or several: a run's folder, a checkpoint, or an exported file each.
        strengths: Factors on the adapters' updates, each of which is measured.
        generation: Steps, guidance, size; the seeds come from the data.
        models: What pictures are measured with.
        trigger: The trigger word, removed from prompts before pictures are compared with them.
        tag_threshold: A tag counts as shown from this probability on.
        concept: The tag of what the trigger stands for; counted apart from the other tags.
        base_pictures: Folder in which the base's pictures are kept for other evaluations; null
            keeps none.
        embeddings: Folder in which pictures' embeddings are kept; null keeps none.

    Raises:
        ElfError: If a value makes no sense, with its key.
    """

    def __init__(
        self,
        base: str,
        adapter: list[str] | str,
        strengths: list[float] = [1.0],  # noqa: B006 (read only)
        generation: GenerationConfig = GenerationConfig(),  # noqa: B008 (a constant to jsonargparse)
        models: Models = Models(),  # noqa: B008
        trigger: str | None = None,
        tag_threshold: float = 0.35,
        concept: str | None = None,
        base_pictures: str | None = ".cache/evaluation/base",
        embeddings: str | None = ".cache/evaluation/embeddings",
    ) -> None:
        super().__init__(adapter, strengths)
        self.base_name = base
        check_sampling(generation)
        if not 0 <= tag_threshold <= 1:
            raise ElfError(f"model.tag_threshold {tag_threshold} is a probability: 0 to 1")
        self.generation, self.models, self.trigger = generation, models, trigger
        self.tag_threshold, self.concept = tag_threshold, concept
        self.base_pictures, self.embeddings = base_pictures, embeddings

    @property
    def base(self) -> Base:
        """The base as the first adapter's run had it; no weights are read for it."""
        return self._bases[0]

    def setup(self, stage: str) -> None:
        """Read what the adapters are, and refuse what is of another base, before anything is made.

        Raises:
            ElfError: If one is none, or was not trained on this base; or if not all is to be done.
        """
        self.refuse_a_part("fewer data.prompts or data.seeds")
        self.tell_what_is_replaced()
        if self.trainer.is_global_zero:
            for line in self.models.absent():
                print(line)
        self.files = [open_adapter(path, self.base_name) for path in self.paths]
        self._bases = [
            open_base(self.base_name, *file.base_options.values()) for file in self.files
        ]
        for file, base in zip(self.files, self._bases, strict=True):
            file.refuse_other_base(base, "model.adapter", "model.base ")
        for file, base in zip(self.files[1:], self._bases[1:], strict=True):
            mine, first = ([b.sampler_config, b.encoder_fingerprints()] for b in (base, self.base))
            if mine != first:
                raise ElfError(
                    f"model.adapter: {file.path} was trained with another prediction_type, "
                    f"zero_terminal_snr, clip_skip or caption_tokens than {self.paths[0]}, so they "
                    "have no base in common; evaluate them one by one"
                )
        refuse_other_models = getattr(self._data, "refuse_other_models", None)
        if refuse_other_models is not None:
            refuse_other_models(self.base.encoder_fingerprints())
        shared = Path(self.base_pictures) if self.base_pictures else None
        self._store = PictureStore(self.folder, shared)
        data = self._data
        self.plan = Plan(data.prompts, data.seeds, self.trigger)
        if not self.plan.triggered.any():
            raise ElfError(
                f"model.trigger {self.trigger!r} stands in none of data.prompts: put it into those "
                "in which the adapter is to show itself, or set it to null"
            )
        if self.concept is not None and self.models.tagger is not None:
            refuse_unknown_concept(self.models.tagger, self.concept)
        self._losses = [ValidationRun() for _ in self.files]
        self._made: dict[str, dict[str, Any]] = {}  # by variant: what its pictures are made of
        self._base_errors: dict[str, torch.Tensor] = {}

    # --- generating -------------------------------------------------------------------------

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Generate pictures, or measure denoising errors, of the adapter that the batch names."""
        size, otherwise = self._data.batch_size, "make model.generation.width and height less"
        with self._room("data.batch_size", size, otherwise):
            self._work_off(batch)

    def _work_off(self, batch: dict[str, Any]) -> None:
        if batch["task"] == "generate":
            self._generate(batch["adapter"], batch["number"], batch["prompt"], batch["seed"])
            return
        subject = self._loaded(batch["adapter"])
        errors, base = subject.stratified_errors(batch), subject.errors_of_base(batch)
        found = self._losses[batch["adapter"]].sets[batch["kind"]]
        found.add(batch["id"], errors.cpu().numpy(), base.cpu().numpy())

    def _generate(self, adapter: int, numbers: list[int], prompts: list[str], seeds: Any) -> None:
        for variant in self.variants:
            if variant.adapter != adapter and not (variant == BASE and adapter == 0):
                continue
            if variant.name not in self._made:
                self._made[variant.name] = self._made_of(variant)
            made_of = self._made[variant.name]
            keys = [picture_key(made_of, *pair) for pair in zip(prompts, seeds, strict=True)]
            # of a batch all or none: alone, a picture would differ by rounding
            if all(map(self._store.has, [variant] * len(keys), numbers, keys)):
                continue
            with self._as(variant) as subject:
                sampling = replace(self.generation, batch_size=len(prompts))
                pictures = subject.generate(prompts, sampling, seeds)
            for number, key, picture in zip(numbers, keys, pictures, strict=True):
                self._store.add(variant, number, key, picture)

    def _made_of(self, variant: Variant) -> dict[str, Any]:
        """Return what decides a variant's pictures, beside prompt and seed."""
        base = self._bases[variant.adapter or 0]
        sampling = asdict(self.generation)
        del sampling["seed"], sampling["batch_size"]
        made_of = {
            "base": {**base.network_fingerprints(), **base.encoder_fingerprints()},
            "sampler": base.sampler_config,
            "sampling": sampling,
            "precision": str(self.trainer.precision),
            "device": self.device.type,
            **versions(("diffusers",)),
        }
        return self._with_adapter_of(variant, made_of)

    def with_adapter(self, file: Trained) -> DiffusionModule:
        """Return a module for an adapter in the base, not built yet."""
        # no weights of losses, of which some do not suit each noise schedule
        plain = ObjectiveConfig(weighting="none")
        return DiffusionModule(self.base_name, file.config, objective=plain, **file.base_options)

    def on_loaded(self, subject: DiffusionModule, number: int) -> None:
        """Keep ‖ΔW‖ / ‖W‖ over all adapted layers: did anything change at all?"""
        subject._base_errors = self._base_errors
        networks = subject.denoiser.parts.values()
        for variant in self._of(number):
            with at_strength(networks, variant.factor):
                self._weight_changes[variant.name] = relative_change(networks)
        strata = objective.strata(
            subject.validation_strata, subject.objective.timesteps, subject.denoiser.timesteps
        )
        self._timesteps: list[int] = strata.tolist()

    # --- measuring --------------------------------------------------------------------------

    def gather_found(self) -> None:
        """Bring the losses of all processes together; their pictures lie in one folder."""
        if self.trainer.world_size > 1:
            for losses in self._losses:
                losses.gather()

    def measure(self) -> Metrics:
        """Return what was found, and write ``grid.png``; the networks have left the device."""
        for number in range(len(self.files)):
            if self._of(number)[0].name not in self._weight_changes:
                self._loaded(number)  # its pictures were there already
        self._forget()
        references = self._data.training_pictures()
        measuring = Measuring(
            self.plan,
            self.variants,
            self._store,
            [] if references is None else references,
            self.models,
            Path(self.embeddings) if self.embeddings else None,
            self.device,
        )
        rows = self._adapter_rows() + measuring.rows(self.concept, self.tag_threshold)
        names = adapter_names(self.paths)
        verdicts = [judge(name, self._of(number), rows) for number, name in enumerate(names)]
        shown = [
            next((v for v in self._of(n) if v.strength == verdict.strength), self._of(n)[-1])
            for n, verdict in enumerate(verdicts)
        ]
        curves = {as_trained(self._of(n)).name: losses for n, losses in enumerate(self._losses)}
        prompts, seeds = len(self.plan.prompts), len(self.plan.seeds)
        write_sheet(
            self.folder / "grid.png",
            self.plan.pairs,
            lambda number: [self._store.read(which, number) for which in (BASE, shown[0])],
        )
        return Metrics(
            verdict=Verdict(tuple(verdicts), *indicative(rows)),
            variants=self._named_variants(names),
            rows=tuple(rows),
            plan=schema.Plan(
                tuple(self.plan.prompts),
                tuple(map(bool, self.plan.triggered)),
                tuple(self.plan.seeds),
            ),
            pictures=tuple(
                schema.Picture(v.name, prompt, seed, self._store.file(v, prompt * seeds + place))
                for v in self.variants
                for prompt in range(prompts)
                for place, seed in enumerate(self.plan.seeds)
            ),
            nearest=tuple(nearest_pictures(self.folder, measuring, shown)),
            loss=loss_curve(curves, self._timesteps),
            settings=self._settings(),
            hashes={"base": self.base.fingerprint("unet")}
            | {name: file.fingerprint for name, file in zip(names, self.files, strict=True)},
            versions={"elf": __version__, **versions(("torch", "diffusers", "peft"))},
        )

    def _adapter_rows(self) -> list[Row]:
        """Return what does not need a picture: ‖ΔW‖ / ‖W‖, and the losses."""
        found = []
        for number, losses in enumerate(self._losses):
            found += weight_rows(self._weight_changes, self._of(number))
            found += loss_rows(losses, self._of(number))
        return found

    def _settings(self) -> dict[str, Any]:
        own = ("models", "trigger", "tag_threshold", "concept")
        return self.settings_of(own, ("seeds", "shards", "references", "batch_size"))
