"""What a training's config asks for, as `elf plan` needs it: pictures, steps, network, card."""

import functools
from pathlib import Path
from typing import Any

import torch

from elf.configuration.refusals import refuse_half_precision_on_cpu
from elf.errors import ElfError
from elf.kernels import can_compile_here
from elf.planning import Choice, PlannedTraining, card_at_hand, find_card
from elf.planning.pictures import Pictures, of_prepared, of_sources
from elf.preparation.measuring import make_placing
from elf.preparation.prepared import read_prepared
from elf.preparation.remote import is_remote, local_path
from elf.training.building import base_dtype
from elf.training.schedules import length, run_length


class Request:
    """What a training's config asks for.

    Args:
        made: What the config was made into: trainer's options, model, data, and the plan's own.
        config_files: Its files.
    """

    def __init__(self, made: Any, config_files: list[str]) -> None:
        self.trainer, self.model, self.data = made.trainer, made.model, made.data
        self.gpu, self.probing = made.gpu, made.probe
        self.precision = str(self.trainer.precision or "32-true")
        root = self.trainer.default_root_dir
        name = Path(config_files[-1]).stem if config_files else "run"
        self.folder = Path(root) if root else Path("models") / name
        # before anything slow
        self.named = find_card(self.gpu) if self.gpu else None
        self.at_hand = None if self.trainer.accelerator == "cpu" else card_at_hand()
        if self.trainer.accelerator == "cpu" and not self.gpu:
            refuse_half_precision_on_cpu(self.precision, "cpu")
        self.pictures, self.whence = self._pictures()
        self.training = self._training()
        self.measured = functools.cache(
            lambda choice: self.training.footprint(choice, self.pictures.largest)
        )

    @property
    def captured(self) -> bool:
        """Whether passes are CUDA graphs."""
        return bool(self.model.cuda_graphs)

    @property
    def passes(self) -> int:
        """Batches of an optimizer step."""
        return int(self.trainer.accumulate_grad_batches)

    @property
    def devices(self) -> int:
        """Processes that train."""
        asked = self.trainer.devices
        if isinstance(asked, list):
            return len(asked)
        if str(asked).isdigit():
            return int(asked)
        return max(1, torch.cuda.device_count()) if self.at_hand else 1

    @property
    def choice(self) -> Choice:
        """What is trained how."""
        model, recomputed = self.model, self.model.gradient_checkpointing
        return Choice(
            self.data.batch_size,
            recomputed if isinstance(recomputed, bool) else tuple(recomputed),
            model.quantization,
            model.optimizer,
        )

    def _pictures(self) -> tuple[Pictures, str]:
        """Return the pictures, and whence they are known."""
        data, settings = self.data, self.data.settings
        factor = PlannedTraining.factor_of(self.model.base)
        placing = make_placing(settings, factor)
        folder = local_path(data.shards, data.shards_cache)
        try:
            prepared = read_prepared(Path(folder), settings)
        except ElfError as error:
            if is_remote(data.shards):
                raise
            sets = settings.all_sets(str(data.pictures), str(data.labels))
            found = of_sources(settings, sets, placing)
            stale = f"; {error}" if (Path(folder) / "prepared.json").exists() else ""
            return found, f"by their headers{stale}" if stale else "by their headers"
        return of_prepared(prepared, settings, placing), f"from the shards in {data.shards}"

    def _training(self) -> PlannedTraining:
        model, data = self.model, self.data
        share = data.prior_preservation
        return PlannedTraining(
            base=model.base,
            adapter=model.adapter,
            objective=model.objective,
            dtype=base_dtype(self.precision),
            text_states=data.text_mode,
            rates=model.learning_rates,
            averaged=model.ema is not None,
            masked=model.objective.masked and self.pictures.masks,
            preserved=share,
            fused=model.fused_kernels and model.torch_compile is None and can_compile_here(),
        )

    def steps(self) -> tuple[int, int]:
        """Return optimizer steps, and batches of an epoch."""
        batch, drop = self.data.batch_size * self.devices, self.data.remainder == "drop"
        batches = self.pictures.batches(batch, drop)
        if not batches:
            raise ElfError(
                f"data.remainder=drop leaves no batch: no bucket has the {batch} pictures of a "
                "batch; use fill or a smaller data.batch_size"
            )
        options = self.trainer
        steps = run_length(
            -1 if options.max_steps is None else options.max_steps,
            options.max_epochs,
            batches,
            options.limit_train_batches,
            self.passes,
        )
        length(self.model.schedule, steps)  # refuses what does not fit the run
        return steps, batches
