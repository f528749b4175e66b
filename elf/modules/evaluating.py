"""What evaluations of pictures and of text share: who is compared, and how it ends."""

import gc
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from lightning.pytorch import LightningModule

from elf.adapters import at_strength
from elf.errors import ElfError
from elf.evaluation import schema
from elf.evaluation.logging import log_metrics
from elf.evaluation.page import write_report
from elf.evaluation.plan import Variant, adapter_names, checked_variants
from elf.evaluation.reading import what_is_replaced, write_metrics
from elf.export.trained import Trained
from elf.memory import is_out_of_memory
from elf.modules.adapter import AdapterModule
from elf.processes import gather
from elf.training.adapted import AdaptedNetworks
from elf.training.identity import flatten

Subject = TypeVar("Subject", bound=AdapterModule)


class Evaluation(LightningModule, Generic[Subject]):
    """Compares adapters with their base, and writes the report.

    Args:
        adapter: One or several: a run's folder, a checkpoint, or an exported file each.
        strengths: Factors on the adapters' updates, each of which is measured.

    Attributes:
        base_name: The base, as it was given.
        paths: The adapters.
        variants: The base, then each adapter at each strength.
        files: What the adapters are, once it is known.
    """

    base_name: str

    def __init__(self, adapter: list[str] | str, strengths: list[float]) -> None:
        super().__init__()
        self.paths = [adapter] if isinstance(adapter, str) else list(adapter)
        self.variants = checked_variants(self.paths, strengths)
        self.files: list[Trained] = []
        self._weight_changes: dict[str, float] = {}  # ‖ΔW‖ / ‖W‖ of each variant
        self._subject: Subject | None = None
        self._number = -1  # of the adapter that is loaded

    @abstractmethod
    def with_adapter(self, file: Trained) -> Subject:
        """Return a module for an adapter in the base, not built yet."""

    @abstractmethod
    def gather_found(self) -> None:
        """Bring together what each process found; every process calls it."""

    @abstractmethod
    def measure(self) -> schema.Found:
        """Return what was found; the first process calls it."""

    @property
    def folder(self) -> Path:
        """Where the report goes: the trainer's folder."""
        return Path(self.trainer.default_root_dir)

    @property
    def _data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def _of(self, number: int) -> list[Variant]:
        """Return an adapter's variants, by its number."""
        return [variant for variant in self.variants if variant.adapter == number]

    def settings_of(self, own: Sequence[str], data: Sequence[str]) -> dict[str, Any]:
        """Return what decides the figures, flat, by the keys of the YAML.

        Args:
            own: Names of options that this evaluation alone has.
            data: Names of options of the data.
        """
        strengths = [variant.strength for variant in self._of(0)]
        options = {"base": self.base_name, "adapter": self.paths, "strengths": strengths}
        options |= {name: getattr(self, name) for name in ("generation", *own)}
        shown = {name: getattr(self._data, name) for name in data}
        values = {**flatten(options, "model."), **flatten(shown, "data.")}
        return {**values, "trainer.precision": str(self.trainer.precision)}

    @contextmanager
    def _as(self, variant: Variant) -> Iterator[Subject]:
        """The networks of a variant for as long as it lasts."""
        subject = self._loaded(variant.adapter or 0)
        with as_variant(subject.networks, variant):
            yield subject

    def _loaded(self, number: int) -> Subject:
        """Return an adapter in its base; one at a time is in memory."""
        if self._subject is None or self._number != number:
            self._forget()
            file = self.files[number]
            with torch.inference_mode(False):  # norms that are kept would be inference tensors
                subject = self.with_adapter(file)
                subject.trainer = self.trainer
                subject.configure_model()
                subject.load_state_dict(file.state)
                subject.to(self.device).eval()
                self._subject, self._number = subject, number
                self.on_loaded(subject, number)
        return self._subject

    def on_loaded(self, subject: Subject, number: int) -> None:
        """Do what is to be done once with each adapter, by its number."""

    def _forget(self) -> None:
        """Give up the networks and their memory."""
        self._subject = None
        self._free()

    def _with_adapter_of(self, variant: Variant, made_of: dict[str, Any]) -> dict[str, Any]:
        """Return what decides a variant's output: what decides the base's, and its adapter."""
        if variant.adapter is None:
            return made_of
        adapter = self.files[variant.adapter].fingerprint
        return {**made_of, "adapter": adapter, "strength": variant.strength}

    def _named_variants(self, names: Sequence[str]) -> tuple[schema.Variant, ...]:
        """Return the variants as the report has them, given the adapters' names in it."""
        return tuple(
            schema.Variant(v.name, None if v.adapter is None else names[v.adapter], v.strength)
            for v in self.variants
        )

    def tell_what_is_replaced(self) -> None:
        """Say so if the folder holds a report of other adapters."""
        line = what_is_replaced(self.folder, adapter_names(self.paths))
        if line and self.trainer.is_global_zero:
            print(line)

    def refuse_a_part(self, fewer: str) -> None:
        """Refuse a limit on what is measured.

        Args:
            fewer: What is to be given less of, for the message.

        Raises:
            ElfError: If there is one.
        """
        limit = self.trainer.limit_test_batches
        if limit != 1.0 or isinstance(limit, int):
            raise ElfError(
                f"trainer.limit_test_batches {limit}: a plan is measured whole; give {fewer}"
            )

    @contextmanager
    def _room(self, key: str, size: int, otherwise: str) -> Iterator[None]:
        """What runs out of memory is told by the key that takes it, and the way out."""
        try:
            yield
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            way = f"take {size // 2}" if size > 1 else otherwise
            raise ElfError(
                f"{key} {size} takes more memory than {self.device} has ({error}); {way}"
            ) from None

    def _free(self) -> None:
        """Give up the memory of networks that are forgotten; they hold each other."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def on_test_epoch_end(self) -> None:
        """Measure what was generated and write ``metrics.json`` and ``report.html``.

        One process does; where it finds that something is wrong, the others stop, too, and leave
        the message to it.

        Raises:
            ElfError: If it cannot be measured, or is not where it should be.
        """
        self.gather_found()
        refusal: ElfError | None = None
        if self.trainer.is_global_zero:
            try:
                self._report()
            except ElfError as error:
                refusal = error
        if any(gather(refusal is not None)):
            raise refusal or SystemExit(2)

    def _report(self) -> None:
        metrics = self.measure()
        write_metrics(self.folder, metrics)
        page = write_report(self.folder)
        for verdict in metrics.verdict.adapters:
            print(f"{verdict.adapter}: {verdict.line}")
        if metrics.verdict.indicative:
            print(f"(indicative: {metrics.verdict.why})")
        print(f"The report: {page}")
        log_metrics(self.trainer, self.folder, metrics)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse ``--ckpt_path``: the adapter is named by ``model.adapter``."""
        raise ElfError("--ckpt_path is not for this model; name the adapter by --model.adapter")


@contextmanager
def as_variant(networks: AdaptedNetworks, variant: Variant) -> Iterator[None]:
    """The base, or an adapter at a strength, for as long as it lasts."""
    if variant.strength is None:
        with networks.adapter_off():
            yield
        return
    with at_strength(networks.parts.values(), variant.strength):
        yield
