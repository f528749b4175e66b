"""Attention among packed documents that do not see each other.

On a GPU in 16 bit, flash attention over the documents of a row one after the other (Dao 2023), by
the function that PyTorch has for it; elsewhere a mask of blocks, which is right everywhere and
costs more.

Shapes: B rows of L tokens, H query heads, G key heads, D of a head, N = B · L tokens.
"""

import inspect
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

PACKED = "elf_packed"
"""Its name among transformers' attention functions."""


def varlen_works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether documents of many lengths can go through flash attention."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return False
    try:
        from torch.nn.attention.varlen import varlen_attn  # new in 2.10, with windows in 2.11
    except ImportError:
        return False
    if "window_size" not in inspect.signature(varlen_attn).parameters:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def register() -> None:
    """Make `packed_attention` known to transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, _no_mask)


def _no_mask(*_: Any, **__: Any) -> None:
    """Return none: the borders say it."""


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend within documents.

    Args:
        module: The layer, of which the number of key heads is needed.
        query: (1, H, N, D).
        key: (1, G, N, D).
        value: (1, G, N, D).
        attention_mask: None.
        scaling: Of the products.
        dropout: Of the weights; frozen layers have none.
        cu_seq_lens_q: (documents + 1,) where each begins; None: a single document a row.
        max_length_q: Tokens of the longest at most.
        sliding_window: How far back a token sees.
        **others: What sdpa takes.

    Returns:
        (1, N, H, D), and no weights.
    """
    if cu_seq_lens_q is None or max_length_q is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        found: Tensor = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **others
        )[0]
        return found, None
    from torch.nn.attention.varlen import varlen_attn

    # PyTorch 2.14 wants to be told of fewer key heads than query heads; 2.11 takes them untold.
    grouped: dict[str, Any] = (
        {"enable_gqa": True} if query.shape[1] != key.shape[1] and _is_told() else {}
    )
    attended = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        cu_seq_lens_q,
        cu_seq_lens_q,
        max_length_q,
        max_length_q,
        scale=scaling,
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        **grouped,
    )
    assert isinstance(attended, Tensor)
    return attended[None], None


@cache
def _is_told() -> bool:
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters


def block_mask(documents: Int[Tensor, "B L"]) -> Bool[Tensor, "B 1 L L"]:
    """Return which tokens see which: those before them in their document, and themselves."""
    same = documents[:, :, None] == documents[:, None, :]
    length = documents.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()
    return (same & causal)[:, None]
