"""Attention of diffusers' UNets: its queries, keys and values in one product, and nothing after."""

from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from elf.adapters.joined import JoinedLayers


class FusedAttention(AttnProcessor2_0):  # type: ignore[misc]  # diffusers has no types
    """What an attention layer does between its projections.

    Args:
        attention: The layer.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        layers = [attention.to_k, attention.to_v]
        self.alone = not attention.is_cross_attention  # a picture's attention to itself
        if self.alone:
            layers.insert(0, attention.to_q)
        self.layers = layers
        self.joined = JoinedLayers(layers) if JoinedLayers.fits(layers) else None

    @staticmethod
    def fits(attention: Attention) -> bool:
        """Whether a layer does what those of SD1.5 and SDXL do, and nothing else."""
        nothing = ("spatial_norm", "group_norm", "norm_q", "norm_k", "norm_cross", "added_kv_proj")
        return (
            type(attention.processor) is AttnProcessor2_0
            and not any(getattr(attention, name, None) for name in nothing)
            and not attention.residual_connection
            and attention.rescale_output_factor == 1
            and attention.inner_kv_dim == attention.inner_dim
        )

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Return the layer's output; see diffusers."""
        if attention_mask is not None or hidden_states.dim() != 3:
            result: Tensor = super().__call__(
                attn, hidden_states, encoder_hidden_states, attention_mask, temb, *args, **kwargs
            )
            return result
        query, key, value = self._projected(attn, hidden_states, encoder_hidden_states)
        query, key, value = (
            torch.unflatten(each, -1, (attn.heads, -1)).transpose(1, 2)
            for each in (query, key, value)
        )
        attended = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        dropped: nn.Module = attn.to_out[1]
        output: Tensor = dropped(attn.to_out[0](attended))
        return output

    def _projected(self, attn: Any, x: Tensor, text: Tensor | None) -> tuple[Tensor, ...]:
        source = x if text is None else text
        # merged into its weights, an adapter's layers are others than those that were joined
        joined = self.joined if attn.to_k is self.layers[-2] else None
        if joined is None or (self.alone and text is not None):
            return attn.to_q(x), attn.to_k(source), attn.to_v(source)
        if self.alone:
            return tuple(joined(source))
        query = attn.to_q(x)  # first: an adapter's dropout draws in diffusers' order
        return query, *joined(source)
