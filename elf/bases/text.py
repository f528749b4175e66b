"""Captions → tokens → text states, as the pipelines make them; gradients flow.

In two halves, so that a step with fixed shapes can be captured: strings become tokens on the CPU,
and tokens become states on the device, without a look at their values.

Shapes: B captions, N tokens (77 for CLIP; of long captions, 77 for each of K chunks, one behind the
other), D width of the states, P width of the pooled state.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from elf.bases.chunks import CHUNK, split

TOKENS = 77
"""CLIP's context length; some tokenizers on the hub do not say it."""

Tokens = dict[str, Int[Tensor, "B N"]]
"""Token ids by the text encoder that reads them."""

States = dict[str, Float[Tensor, "B ..."]]
"""``text`` (B, N, D), and for SDXL ``pooled`` (B, P)."""


def _limit(tokenizer: Any) -> int:
    return min(int(tokenizer.model_max_length), TOKENS)


def tokenize(
    tokenizers: Mapping[str, Any], captions: Sequence[str], caption_tokens: int = CHUNK
) -> Tokens:
    """Return the tokens of captions, padded or cut to one length, on the CPU.

    Args:
        tokenizers: The tokenizer of each text encoder, by the encoder's name.
        captions: B of them.
        caption_tokens: Tokens of a caption at most, a multiple of 75.
    """
    chunks = caption_tokens // CHUNK
    if chunks > 1:
        return {
            name: _chunked(tokenizer, list(captions), chunks)
            for name, tokenizer in tokenizers.items()
        }
    return {
        name: tokenizer(
            list(captions),
            padding="max_length",
            max_length=_limit(tokenizer),
            truncation=True,
            return_tensors="pt",
        ).input_ids
        for name, tokenizer in tokenizers.items()
    }


def _chunked(tokenizer: Any, captions: list[str], chunks: int) -> Int[Tensor, "B N"]:
    """Return the tokens of captions, each chunk as if its text stood alone."""
    start, end, padding = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    comma = tokenizer.convert_tokens_to_ids(",</w>")

    def row(ids: list[int]) -> list[int]:
        parts = [[start, *part, end] for part in split(ids, chunks, comma)]
        return [token for part in parts for token in part + [padding] * (TOKENS - len(part))]

    # not verbose: transformers warns of what is longer than the model reads at once
    found = tokenizer(captions, add_special_tokens=False, verbose=False).input_ids
    return torch.tensor([row(ids) for ids in found])


def count_cut(
    tokenizers: Mapping[str, Any], captions: Sequence[str], caption_tokens: int = CHUNK
) -> int:
    """Return how many captions are longer than ``caption_tokens``; their ends are lost."""
    if not captions:
        return 0
    cut = [False] * len(captions)
    for tokenizer in tokenizers.values():
        ids = tokenizer(list(captions), verbose=False).input_ids  # with start and end of text
        limit = _limit(tokenizer) + caption_tokens - CHUNK
        cut = [before or len(each) > limit for before, each in zip(cut, ids, strict=True)]
    return sum(cut)


def encode_tokens(family: str, encoders: Mapping[str, Any], tokens: Tokens) -> States:
    """Return the states that a family's denoiser attends to, in the encoders' type.

    Args:
        family: Name of the family.
        encoders: Text encoders by name, in the pipeline's order.
        tokens: On the encoders' device. Of several chunks, each is encoded alone; the pooled state
            is the first one's.
    """
    length = next(iter(tokens.values())).shape[1]
    if length <= TOKENS:
        return _STATES[family](encoders, tokens)
    chunks = length // TOKENS
    rows = {name: ids.reshape(-1, TOKENS) for name, ids in tokens.items()}  # (B·K, 77)
    states = _STATES[family](encoders, rows)
    joined = {"text": states["text"].reshape(-1, length, states["text"].shape[-1])}  # (B, N, D)
    if "pooled" in states:
        joined["pooled"] = states["pooled"][::chunks]
    return joined


def encode_text(
    family: str,
    tokenizers: Mapping[str, Any],
    encoders: Mapping[str, Any],
    captions: Sequence[str],
    device: torch.device,
    caption_tokens: int = CHUNK,
) -> States:
    """Return the states of captions: `tokenize`, then `encode_tokens` on the device."""
    tokens = tokenize(tokenizers, captions, caption_tokens)
    return encode_tokens(family, encoders, {name: ids.to(device) for name, ids in tokens.items()})


def _last_states(encoders: Mapping[str, Any], tokens: Tokens) -> States:
    """SD1.5: the last hidden states, after the final layer norm."""
    return {"text": encoders["text_encoder"](tokens["text_encoder"]).last_hidden_state}


def _penultimate_states(encoders: Mapping[str, Any], tokens: Tokens) -> States:
    """SDXL: both encoders' last but one hidden states side by side, and the second's projection.

    Podell et al. 2023, section 2.1; there is no layer norm on the states.
    """
    outputs = [encoders[name](tokens[name], output_hidden_states=True) for name in encoders]
    text = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return {"text": text, "pooled": outputs[-1].text_embeds}


_STATES: dict[str, Callable[[Mapping[str, Any], Tokens], States]] = {
    "sd15": _last_states,
    "sdxl": _penultimate_states,
}


def skip_layers(encoder: Any, clip_skip: int) -> None:
    """Take the last layers off a CLIP text encoder, in place: its states are then those before.

    ``clip_skip`` counts as kohya's trainer and the web UIs do: 1 is the whole encoder, 2 the last
    but one layer, with the final layer norm. diffusers' pipeline counts one less, looks for the
    norm where transformers 5 has none any more, and skips for the prompt alone where there is a
    second encoder; a shorter encoder needs none of that, and costs less.
    """
    layers = encoder.encoder.layers
    encoder.encoder.layers = layers[: len(layers) - clip_skip + 1]
    encoder.config.num_hidden_layers = len(encoder.encoder.layers)
