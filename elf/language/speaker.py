"""A language model that answers, with at most one adapter in it."""

import warnings
from collections.abc import Sequence

import torch

from elf.adapters.presets import LANGUAGE_MODEL
from elf.adapters.slot import AdapterSlot
from elf.autocasting import without_autocast
from elf.errors import ElfError, ElfWarning
from elf.export.trained import Trained
from elf.language.answering import Answer, Heard, generate_rows
from elf.language.base import LanguageBase
from elf.language.generation import Decoding
from elf.memory import is_out_of_memory
from elf.quantized import Kind, quantize, refuse_missing
from elf.taggers.microbatch import UNLIMITED


class Speaker:
    """A language model, loaded to be asked.

    Args:
        base: The model.
        dtype: Of its weights.
        device: Where it is.
        quantization: How its linear layers are kept, but for the head; None leaves them.

    Attributes:
        micro_batch: Prompts that are answered at once at most; halved whenever memory runs out.
    """

    def __init__(
        self,
        base: LanguageBase,
        dtype: torch.dtype,
        device: torch.device,
        quantization: Kind | None = None,
    ) -> None:
        refuse_missing(quantization)
        self.base, self.device = base, device
        model = base.network(dtype)
        if quantization is not None:
            head = model.get_output_embeddings()  # type: ignore[operator]
            quantize(model, quantization, device, skip=[head])
        self.model = model.to(device).requires_grad_(False)
        self.micro_batch = UNLIMITED
        self._slot = AdapterSlot({LANGUAGE_MODEL: self.model})

    def take(self, trained: Trained | None, strength: float = 1.0) -> None:
        """Let the model have an adapter at a strength; at 0, and without one, be the base.

        Raises:
            ElfError: If it is of another model.
        """
        if trained is None:
            self._slot.empty()
        else:
            self._slot.hold(str(trained.path), trained.config, trained.state, strength)

    @torch.no_grad()
    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        seeds: Sequence[str | int],
        heard: Heard | None = None,
    ) -> list[Answer]:
        """Return what the model says behind prompts.

        Args:
            prompts: Tokens.
            decoding: How.
            seeds: Of each prompt's draws.
            heard: Is told of each step, if all are answered at once.

        Raises:
            ElfError: If the memory does not suffice for one of them.
        """
        found: list[Answer] = []
        with without_autocast(self.device):
            while len(found) < len(prompts):
                part = slice(len(found), len(found) + self.micro_batch)
                rows = self._try(prompts[part], decoding, seeds[part], heard)
                if rows is None:
                    self._halve(len(prompts[part]), max(map(len, prompts[part])), decoding)
                else:
                    found += rows
        return found

    def _try(
        self,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        seeds: Sequence[str | int],
        heard: Heard | None,
    ) -> list[Answer] | None:
        """Return the answers; None if memory ran out, and then no traceback holds any of it."""
        try:
            return generate_rows(
                self.model, prompts, decoding.max_new_tokens, self.device, decoding.draws(seeds),
                heard,
            )  # fmt: skip
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _halve(self, count: int, longest: int, decoding: Decoding) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if count == 1:
            raise ElfError(
                f"{longest} tokens, with {decoding.max_new_tokens} for the answer, take more "
                f"memory than {self.device} has; take a shorter answer, or quantization: nf4"
            )
        self.micro_batch = count // 2
        warnings.warn(
            f"out of memory with {count} prompts at once; going on with {self.micro_batch}",
            ElfWarning,
            stacklevel=3,
        )
