"""One token of Florence-2's decoder, a BART (Lewis et al. 2019, arXiv:1910.13461), in place.

A step reads and writes buffers that stay where they are, waits for nothing and has no shape that
depends on the position: it can be captured in a CUDA graph, or called as it is.

B: batch, H: heads, D: width of a head, C = H · D, S: tokens of the encoder, T: cached positions,
L: layers, N: new tokens at most.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

ALIGNMENT = 8
"""Matrix products read 16 bytes at once: float16 rows have a multiple of these numbers."""

PREFIX = 64
"""Positions; there is a step for each multiple, so that early tokens read a part of the cache."""

HARMLESS = {
    "transformers_version", "_from_model_config", "_commit_hash", "use_cache", "bos_token_id",
    "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "forced_eos_token_id", "max_length", "max_new_tokens", "do_sample", "temperature", "top_k",
    "top_p", "num_beams", "length_penalty", "early_stopping", "no_repeat_ngram_size",
}  # fmt: skip
"""Stored generation settings that are honoured here, overridden, or no matter for greedy tokens."""

NEUTRAL = {"repetition_penalty": 1.0, "min_length": 0, "num_return_sequences": 1}
"""Values that change nothing."""


class UnsupportedError(Exception):
    """A model, or a stored setting of it, that only ``generate()`` knows how to decode."""


@dataclass(frozen=True)
class Greedy:
    """What decides on greedy tokens besides the logits.

    Attributes:
        start: The decoder's first token.
        ends: Tokens that end a text.
        pad: What follows the end.
        first: Forced first new token.
        last: Forced last new token, where a text does not end before.
        length: New tokens at most.
    """

    start: int
    ends: tuple[int, ...]
    pad: int
    first: int | None
    last: int | None
    length: int

    @classmethod
    def of(cls, config: Any, length: int) -> "Greedy":
        """Read transformers' generation config as ``generate()`` does.

        Raises:
            UnsupportedError: If it has a setting that is not known here.
        """
        for name, value in config.to_diff_dict().items():
            if value is not None and name not in HARMLESS and NEUTRAL.get(name) != value:
                raise UnsupportedError(f"its generation config has {name}={value!r}")
        ends = config.eos_token_id
        ends = () if ends is None else tuple(ends) if isinstance(ends, list) else (ends,)
        starts = (config.decoder_start_token_id, config.bos_token_id)
        start = next((token for token in starts if token is not None), None)
        pad = config.pad_token_id if config.pad_token_id is not None else next(iter(ends), None)
        if start is None or pad is None:
            raise UnsupportedError("its generation config has no start token, or no pad token")
        forced = (config.forced_bos_token_id, config.forced_eos_token_id)
        return cls(int(start), ends, int(pad), *forced, length)

    def forced(self) -> list[int]:
        """Return for each new token what it is forced to be; -1 leaves it free."""
        forced = [-1] * self.length
        forced[0] = -1 if self.first is None else self.first
        forced[-1] = forced[-1] if self.last is None else self.last
        return forced


@dataclass
class State:
    """The buffers of one batch size.

    For Florence-2-large in float16, keys and values are 39 MB a picture; with the encoder's output
    instead of the keys and values of it, 11 MB.
    """

    tokens: Int64[Tensor, " B"]
    position: Int64[Tensor, "1"]
    finished: Bool[Tensor, " B"]
    output: Int64[Tensor, "B N"]
    cache: Float[Tensor, "L 2 B H T D"]  # keys and values of the tokens
    cross: Float[Tensor, "L 2 B H S D"] | Float[Tensor, "B S C"]  # of the encoder's output, or it
    scores: Float[Tensor, " LBHT"]
    cross_scores: Float[Tensor, "BH 1 S"]
    source: int  # S without its padding

    def restart(self, count: int, greedy: Greedy) -> None:
        """Begin new texts in the first rows; the others are finished already.

        The cache is cleared, as what is masked must be finite: a NaN times zero is one.
        """
        self.tokens.fill_(greedy.start)
        self.position.zero_()
        self.finished.zero_()[count:] = True
        self.output.fill_(greedy.pad)
        self.cache.zero_()


class TokenStep:
    """The decoder of a loaded model, a token at a time.

    Launches a layer: 8 for the attention to the text (a 9th, a copy of the queries, beyond batch
    1), 7 for that to the picture, 5 for the feed-forward part. With 7 before and 9 after, a
    12-layer decoder has 256 of them a token, of 3 µs each where they are small.

    The projections' fused weights, and a head whose rows are padded to the alignment, are copies:
    180 MB for Florence-2-large in float16.

    Args:
        model: A ``Florence2ForConditionalGeneration``.
        greedy: From the logits to the tokens.

    Raises:
        UnsupportedError: If the model's decoder is not of the known kind.
    """

    def __init__(self, model: Any, greedy: Greedy) -> None:
        decoder = model.model.language_model.decoder
        self._layers = list(decoder.layers)
        attention = self._layers[0].self_attn
        self._heads, self._width = attention.num_heads, attention.head_dim
        self._scale = float(attention.scaling)
        self._embedding = decoder.embed_tokens
        self._norm = decoder.layernorm_embedding
        if greedy.length > decoder.embed_positions.num_embeddings - decoder.embed_positions.offset:
            raise UnsupportedError(f"its decoder has no {greedy.length} positions")
        self.greedy = greedy
        device = self._embedding.weight.device
        steps = torch.zeros(1, greedy.length, dtype=torch.long, device=device)
        self._positions = decoder.embed_positions(steps)[0]  # (N, C)
        self._qkv = [_fused(layer.self_attn) for layer in self._layers]
        self.length = _aligned(greedy.length)
        hidden = torch.full((self.length, self.length), -torch.inf, device=device)
        self._mask = hidden.triu(1).to(self._positions.dtype)  # (T, T)
        self._vocabulary = model.lm_head.weight.shape[0]
        self._head = model.lm_head.weight  # (V, C)
        if padding := _aligned(self._vocabulary) - self._vocabulary:
            self._head = F.pad(self._head, (0, 0, 0, padding))
        self._ends = torch.tensor(greedy.ends, dtype=torch.long, device=device)
        forced = torch.tensor(greedy.forced(), device=device)  # (N,)
        self._forced = forced if (forced >= 0).any() else None

    @property
    def prefixes(self) -> list[int]:
        """How much of the cache a step may see, in ascending order."""
        return [*range(PREFIX, self.length, PREFIX), self.length]

    def state(self, batch: int, source: int) -> State:
        """Return the buffers for a batch whose pictures and prompts have so many tokens."""
        like = self._positions.new_zeros
        layers, heads, width = len(self._layers), self._heads, self._width
        padded = _aligned(source)
        # The padding is never overwritten: its scores stay -inf, its keys and values zero.
        cross_scores = like(batch * heads, 1, padded)
        cross_scores[:, :, source:] = -torch.inf
        return State(
            tokens=like(batch, dtype=torch.long),
            position=like(1, dtype=torch.long),
            finished=like(batch, dtype=torch.bool),
            output=like(batch, self.greedy.length, dtype=torch.long),
            cache=like(layers, 2, batch, heads, self.length, width),
            cross=self._cross(batch, padded),
            scores=like(layers * batch * heads * self.length),
            cross_scores=cross_scores,
            source=source,
        )

    def _cross(self, batch: int, padded: int) -> Tensor:
        layers, heads, width = len(self._layers), self._heads, self._width
        cross: Tensor = self._positions.new_zeros(layers, 2, batch, heads, padded, width)
        return cross

    def look(self, state: State, encoded: Float[Tensor, "B S C"]) -> None:
        """Take over the encoder's output."""
        batch, source, _ = encoded.shape
        for layer, cross in zip(self._layers, state.cross, strict=True):
            attention = layer.encoder_attn
            for into, project in zip(cross, (attention.k_proj, attention.v_proj), strict=True):
                heads = project(encoded).view(batch, source, self._heads, self._width)
                into[:, :, :source].copy_(heads.transpose(1, 2))

    def __call__(self, state: State, prefix: int) -> None:
        """Append a token to each text.

        Args:
            state: The texts.
            prefix: Of the cache, as many positions as this step may see; above the position.
        """
        batch, heads = len(state.tokens), len(state.tokens) * self._heads
        x = self._embedding(state.tokens)  # (B, C)
        x = self._norm(x + self._positions.index_select(0, state.position))
        # Each layer's products are added to its scores, which hold the mask: filled at once.
        scores = state.scores[: len(self._layers) * heads * prefix].view(-1, heads, 1, prefix)
        scores.copy_(self._mask[:, :prefix].index_select(0, state.position))
        for number, layer in enumerate(self._layers):
            x = layer.self_attn_layer_norm(self._read_text(state, number, scores[number], x))
            x = layer.encoder_attn_layer_norm(self._read_picture(state, number, x))
            y = layer.fc2(layer.activation_fn(layer.fc1(x)))
            x = layer.final_layer_norm(y.add_(x))
        logits = F.linear(x, self._head)  # (B, V and its padding)
        tokens = logits[:, : self._vocabulary].argmax(-1)
        if self._forced is not None:
            forced = self._forced.index_select(0, state.position)
            tokens = torch.where(forced >= 0, forced, tokens)
        tokens.masked_fill_(state.finished, self.greedy.pad)
        state.finished.logical_or_((tokens.view(batch, 1) == self._ends).any(1))
        state.tokens.copy_(tokens)
        state.output.index_copy_(1, state.position, tokens.view(batch, 1))
        state.position.add_(1)

    def _read_text(self, state: State, number: int, scores: Tensor, x: Tensor) -> Tensor:
        """Attend to the tokens so far; return the residual sum."""
        batch, width = x.shape
        qkv = F.linear(x, *self._qkv[number])  # (B, 3 C)
        new = qkv[:, width:].view(batch, 2, self._heads, 1, self._width).transpose(0, 1)
        cache = state.cache[number]  # (2, B, H, T, D)
        cache.index_copy_(3, state.position, new)
        keys, values = cache.flatten(1, 2)[:, :, : scores.shape[-1]]  # (BH, prefix, D)
        query = qkv[:, :width].reshape(-1, 1, self._width)  # (BH, 1, D)
        # Plain products instead of scaled_dot_product_attention: captured in float16, that was
        # seen to give wrong tokens at batch 1 and 8.
        scores.baddbmm_(query, keys.transpose(1, 2), alpha=self._scale)
        context = torch.bmm(scores.softmax(-1), values).view(batch, width)
        return self._layers[number].self_attn.out_proj(context).add_(x)  # type: ignore[no-any-return]

    def _read_picture(self, state: State, number: int, x: Tensor) -> Tensor:
        """Attend to the encoder's output; return the residual sum."""
        attention = self._layers[number].encoder_attn
        query = attention.q_proj(x).view(-1, 1, self._width)  # (BH, 1, D)
        keys, values = state.cross[number].flatten(1, 2)  # (BH, S and its padding, D)
        scores, source = state.cross_scores, state.source
        scores[:, :, :source].baddbmm_(
            query, keys[:, :source].transpose(1, 2), beta=0, alpha=self._scale
        )
        context = torch.bmm(scores.softmax(-1), values).view_as(x)
        return attention.out_proj(context).add_(x)  # type: ignore[no-any-return]


def _aligned(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


def _fused(attention: Any) -> tuple[Tensor, Tensor]:
    """Return weight (3 C, C) and bias (3 C,) of queries, keys and values."""
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    return torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
