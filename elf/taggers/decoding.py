"""Greedy captions by an own loop over a step a token; on CUDA, encoder and step are CUDA graphs.

``generate()`` is bound by Python's launches, some 10 ms a token at any batch size. Here a token is
one replay of a captured step, and the host stays behind the device instead of asking it.
"""

import importlib.util
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from elf.errors import ElfWarning
from elf.stepping.capture import Recorder
from elf.taggers.florence_encoder import BACKENDS, Encoder
from elf.taggers.florence_step import Greedy, State, TokenStep, UnsupportedError

CHECK = 4
"""Tokens from one question whether all texts ended to the next, whose answer comes one later."""

TIE = 1e-2
"""Logits that lie so close may change places by the order of the sums alone."""

ROUNDINGS = 8
"""The same in units of the last place, where the logits' type is coarser than that."""

CHECKED = 2
"""Rows of a first batch whose tokens are compared with the model's own logits."""


def is_tie(best: Float[Tensor, "..."], chosen: Float[Tensor, "..."], dtype: torch.dtype) -> Tensor:
    """Return where two logits of a type are equal but for rounding; nowhere with a NaN."""
    slack = (ROUNDINGS * torch.finfo(dtype).eps * best.abs()).clamp(min=TIE)
    return best - chosen <= slack


def batch_size(count: int, sizes: Iterable[int]) -> int:
    """Return how many rows a batch is padded to, given the sizes there are.

    One that is at most twice what is needed, else what is needed: to an eighth of the power of two
    above, so that usual sizes are met and growing batches do not each need an own.
    """
    step = max(1, (1 << (count - 1).bit_length()) // 8)
    fitting = [size for size in sizes if count <= size <= 2 * count]
    return min(fitting, default=-(-count // step) * step)


class MismatchError(Exception):
    """The tokens are not those of the model."""


@dataclass
class _Batch:
    """What one batch size holds: buffers, and what runs on them."""

    pixels: Float[Tensor, "B 3 height width"]
    state: State
    encode: Callable[[], None]
    steps: dict[int, Callable[[], None]]  # by the prefix of the cache that they see


class FastDecoder:
    """Tokens as ``generate()`` gives them, greedy.

    Buffers and graphs are kept by the batch's size; a size replaces those that are more than half
    of it, so that all hold less than twice what the largest does. For Florence-2-large in float16
    that is 42 MB a picture, or 14 by the kernels from 16 pictures on; what lies between is shared:
    the encoder's peak, up to 3 GB from 16 pictures on.

    Args:
        model: A ``Florence2ForConditionalGeneration``, in evaluation mode.
        prompt: The tokens of the prompt, the same for every picture.
        length: New tokens at most.

    Raises:
        UnsupportedError: If the model is not of the known kind.
    """

    def __init__(self, model: Any, prompt: Int64[Tensor, "1 S"], length: int) -> None:
        kinds = (model.config.text_config.model_type, model.config.vision_config.model_type)
        if kinds != ("bart", "florence_vision"):
            raise UnsupportedError(f"it is made of {' and '.join(kinds)}")
        self.greedy = Greedy.of(model.generation_config, length)
        self._model, self._prompt = model, prompt
        self._ends = torch.tensor(self.greedy.ends, dtype=torch.long, device=prompt.device)
        self._free = torch.tensor(self.greedy.forced(), device=prompt.device) < 0  # (N,)
        self._kernels = prompt.is_cuda and importlib.util.find_spec("triton") is not None
        try:
            self._load()
        except (AttributeError, TypeError) as error:
            raise UnsupportedError(f"its layers are of another kind ({error})") from None
        self._batches: dict[int, _Batch] = {}
        self._record = Recorder(prompt.device) if prompt.is_cuda else None

    @torch.inference_mode()
    def __call__(self, pixels: Float[Tensor, "batch 3 height width"]) -> Int64[Tensor, "batch N"]:
        """Return the start token and what follows, padded to the longest text.

        Raises:
            MismatchError: If tokens of a batch size's first batch are not those of the model.
        """
        count = len(pixels)
        size = batch_size(count, self._batches)
        first = size not in self._batches
        if first:
            self.clear(other for other in list(self._batches) if other < size <= 2 * other)
            self._batches[size] = self._prepare(size, pixels)
        batch = self._batches[size]
        batch.pixels[:count].copy_(pixels)
        batch.state.restart(count, self.greedy)
        self._decode(batch)
        tokens = self._texts(batch.state.output[:count])
        if first:
            self._compare(pixels[:CHECKED], tokens[:CHECKED])
        return tokens

    def clear(self, sizes: Iterable[int] | None = None) -> None:
        """Free buffers and graphs, of all sizes or some; they are made again when needed."""
        for size in list(self._batches) if sizes is None else sizes:
            del self._batches[size]
        if self._record and not self._batches:
            self._record.forget()

    @torch.inference_mode()
    def _load(self) -> None:
        step = TokenStep
        if self._kernels:
            from elf.taggers.florence_kernel_step import KernelStep

            step = KernelStep
        self._step = step(self._model, self.greedy)
        self._encoder = Encoder(self._model, self._prompt, self._kernels)

    def _prepare(self, size: int, like: Tensor) -> _Batch:
        if self._kernels:
            self._prove(size, like[:1])
        pixels = like.new_zeros(size, *like.shape[1:])
        state = self._step.state(size, self._encoder.length)

        def encode() -> None:
            self._step.look(state, self._encoder(pixels))

        def step(prefix: int) -> Callable[[], None]:
            return self._program(lambda: self._step(state, prefix), state)

        return _Batch(
            pixels, state, self._program(encode, state), {n: step(n) for n in self._step.prefixes}
        )

    def _prove(self, size: int, picture: Float[Tensor, "1 3 height width"]) -> None:
        """Do without the kernels where Triton cannot compile them: it needs a C compiler."""
        state = self._step.state(size, self._encoder.length)
        state.restart(size, self.greedy)
        try:
            self._step.look(state, self._encoder(picture).expand(size, -1, -1))
            self._step(state, self._step.length)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # Triton has many
            reason = " ".join(str(error).split())[:200]
            warnings.warn(
                f"the captioner runs without Triton kernels, slower: {reason}",
                ElfWarning,
                stacklevel=2,
            )
            self._kernels = False
            self._load()

    def _program(self, function: Callable[[], None], state: State) -> Callable[[], None]:
        """Return a function as a CUDA graph; on a CPU, as it is."""
        if self._record is None:
            return function
        # cuDNN's first choice need not be its best for depthwise convolutions: let it try them.
        benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Plan failed")  # of those it tries
                count = len(state.tokens)
                return self._record(function, lambda: state.restart(count, self.greedy))
        finally:
            torch.backends.cudnn.benchmark = benchmark

    def _decode(self, batch: _Batch) -> None:
        """Run the encoder, and steps until each text has ended or has its full length."""
        batch.encode()
        asked = _Question(batch.state.finished)
        prefixes = iter(batch.steps)
        prefix = next(prefixes)
        for position in range(self.greedy.length):
            if position >= prefix:
                prefix = next(prefixes)
            batch.steps[prefix]()
            if (position + 1) % CHECK == 0:
                if asked.answer():
                    break
                asked.ask()

    def _texts(self, output: Int64[Tensor, "batch N"]) -> Int64[Tensor, "batch N"]:
        """Put the start token before the new ones, and cut where the longest text ends."""
        ends = torch.isin(output, self._ends)
        longest = int((ends.cumsum(1) == 0).sum(1).max()) + 1  # and the end itself
        start = output.new_full((len(output), 1), self.greedy.start)
        return torch.cat([start, output[:, :longest]], 1)

    def _compare(self, pixels: Tensor, tokens: Tensor) -> None:
        """Compare tokens with the model's logits after the same tokens.

        By induction that is a comparison with ``generate()``, position for position, at the cost of
        one pass: a first ``generate()`` takes seconds.
        """
        prompt = self._prompt.expand(len(pixels), -1)
        with sdpa_kernel(BACKENDS):
            logits = self._model(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                pixel_values=pixels,
                decoder_input_ids=tokens[:, :-1],
            ).logits  # (batch, N, V)
        new = tokens[:, 1:]
        best = logits.amax(-1).float()
        chosen = logits.gather(-1, new[..., None])[..., 0].float()
        ends = torch.isin(new, self._ends)
        said = ends.cumsum(1) - ends.long() == 0  # up to the end, with it
        wrong = ~is_tie(best, chosen, logits.dtype) & self._free[: new.shape[1]] & said
        if wrong.any():
            row, position = wrong.nonzero()[0].tolist()
            below = float(best[row, position] - chosen[row, position])
            raise MismatchError(
                f"token {position + 1} of picture {row + 1} of {len(pixels)} is {below:.3g} below "
                "the best logit"
            )


class _Question:
    """Whether all texts ended; the answer is fetched while the device goes on."""

    def __init__(self, finished: Tensor) -> None:
        self._finished = finished
        self._asked = False
        if finished.is_cuda:
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._answer = torch.zeros((), dtype=torch.bool, pin_memory=True)

    def ask(self) -> None:
        self._asked = True
        if self._finished.is_cuda:
            self._answer.copy_(self._finished.all(), non_blocking=True)
            self._event.record(torch.cuda.current_stream(self._finished.device))
        else:
            self._answer = self._finished.all()

    def answer(self) -> bool:
        """Whether all had ended when it was asked last; waits for that moment alone."""
        if self._asked and self._finished.is_cuda:
            self._event.synchronize()
        return self._asked and bool(self._answer)
