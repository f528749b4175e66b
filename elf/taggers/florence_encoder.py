"""Florence-2's encoders, a DaViT (Ding et al. 2022, arXiv:2204.03645) and a BART, without copies.

The same arithmetic over the same weights as transformers' modules, in another order: pictures stay
channels-last from the first convolution on, and attention between channels is folded into the
projection that follows it. Nothing waits for the device, so that all of it can be captured.

B: batch, C: channels, G: groups of D channels (C = G · D), P: positions (height × width).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

PICTURES = 16
"""Pictures that are looked at together; more would fill the memory, and a card is busy with them.

At Florence-2-large's size in float16 the widest layer then holds up to 3 GB.
"""

BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Kernels of attention that need no plan of their own for each shape, as cuDNN's do."""


class Encoder:
    """From pixels to what the decoder attends to.

    Args:
        model: A ``Florence2ForConditionalGeneration``.
        prompt: The tokens of the prompt, the same for every picture.
        kernels: Let Triton kernels do what stands between the matrix products, on a CUDA device.

    Attributes:
        length: Tokens of the output.
    """

    def __init__(self, model: Any, prompt: Int64[Tensor, "1 S"], kernels: bool = False) -> None:
        self._vision = model.model.vision_tower
        self._projector = model.model.multi_modal_projector
        self._text = model.model.language_model.encoder
        self._prompt = model.get_input_embeddings()(prompt)  # (1, S, C)
        self._positions = self._text.embed_positions(prompt)  # (S, C), for any batch
        self._places = (prompt[0] == model.config.image_token_id).nonzero()[:, 0]
        self.length = prompt.shape[1]
        # The convolutions between stages are dense: their weights have to lie as the pictures do.
        self._weights = [
            stage.conv.weight.contiguous(memory_format=torch.channels_last)
            for stage in self._vision.convs
        ]
        self._tower: Callable[[Tensor], Tensor] = self._see
        self._add_norm, self._expand = _add_norm, _expand
        if kernels:
            from elf.taggers.davit_kernels import Tower
            from elf.taggers.gelu_kernels import gelu_product
            from elf.taggers.product_kernels import add_norm

            self._tower = Tower(self._vision, self._weights)
            self._add_norm, self._expand = add_norm, gelu_product

    def __call__(self, pixels: Float[Tensor, "B 3 height width"]) -> Float[Tensor, "B S C"]:
        """Return the encoder's output for a batch."""
        with sdpa_kernel(BACKENDS):
            seen = [self._projector(self._tower(part)) for part in torch.split(pixels, PICTURES)]
            return self._read(torch.cat(seen))

    def _see(self, pixels: Tensor) -> Tensor:
        """Return the vision tower's features (B, C, h, w)."""
        x = pixels.contiguous(memory_format=torch.channels_last)  # (B, C, height, width)
        stages = zip(self._vision.convs, self._vision.blocks, self._weights, strict=True)
        for stage, blocks, weight in stages:
            if stage.pre_norm:
                x = channels_first(stage.norm(channels_last(x)))
            x = F.conv2d(x, weight, stage.conv.bias, stage.conv.stride, stage.conv.padding)
            x = channels_last(x)  # (B, height, width, C)
            if not stage.pre_norm:
                x = stage.norm(x)
            for block in blocks:
                x = _channel(block.channel_block, spatial(block.spatial_block, x))
            x = channels_first(x)
        return x

    def _read(self, features: Tensor) -> Tensor:
        """Return the text encoder's output for the prompt with the picture's tokens in it."""
        x: Tensor = self._prompt.repeat(len(features), 1, 1)  # (B, S, C)
        x = x.index_copy(1, self._places, features.to(x.dtype))
        x = self._text.layernorm_embedding(x + self._positions)
        for layer in self._text.layers:
            attention = layer.self_attn
            query, key, value = (
                project(x).view(*x.shape[:2], attention.num_heads, -1).transpose(1, 2)
                for project in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            y = F.scaled_dot_product_attention(query, key, value, scale=attention.scaling)
            y = attention.out_proj(y.transpose(1, 2).reshape(x.shape))
            x = self._add_norm(y, x, layer.self_attn_layer_norm)
            y = layer.fc2(self._expand(x, layer.fc1, layer.activation_fn))
            x = self._add_norm(y, x, layer.final_layer_norm)
        return x


def _add_norm(x: Tensor, residual: Tensor, norm: Any) -> Tensor:
    """Return the layer norm of a sum; x is overwritten."""
    return norm(x.add_(residual))  # type: ignore[no-any-return]


def _expand(x: Tensor, layer: Any, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the wide half of a feed-forward part."""
    return activation(layer(x))


def channels_last(x: Tensor) -> Tensor:
    """Return (B, C, height, width) as (B, height, width, C), contiguous."""
    return x.permute(0, 2, 3, 1).contiguous()  # no copy: the memory lies so already


def channels_first(x: Tensor) -> Tensor:
    """Return (B, height, width, C) as (B, C, height, width)."""
    return x.permute(0, 3, 1, 2)


def _mixed(x: Tensor, conv: Any) -> Tensor:
    """Add a depthwise convolution (B, height, width, C)."""
    return channels_last(conv(channels_first(x))).add_(x)


def spatial(block: Any, x: Tensor) -> Tensor:
    """Attention within windows of the picture, then the feed-forward part."""
    x = _mixed(x, block.conv1)
    x = _add_window_attention(block.window_attn, x, block.norm1(x))
    x = _mixed(x, block.conv2)
    return x.add_(block.ffn(block.norm2(x)))


def _add_window_attention(attention: Any, x: Tensor, y: Tensor) -> Tensor:
    """Add to x what attention within windows makes of y (both B, height, width, C)."""
    batch, height, width, channels = y.shape
    side = attention.window_size
    below, right = -height % side, -width % side
    if below or right:
        y = F.pad(y, (0, 0, 0, right, 0, below))
    rows, columns = (height + below) // side, (width + right) // side
    windows = y.view(batch, rows, side, columns, side, channels).transpose(2, 3)
    qkv = attention.qkv(windows.reshape(-1, side * side, channels))
    qkv = qkv.view(*qkv.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)
    y = F.scaled_dot_product_attention(query, key, value, scale=attention.scale)
    y = attention.proj(y.transpose(1, 2).reshape(-1, side * side, channels))
    y = y.view(batch, rows, columns, side, side, channels).transpose(2, 3)
    if below or right:
        y = y.reshape(batch, height + below, width + right, channels)[:, :height, :width]
        return x.add_(y)
    # Windows go back to their places while they are added: reshaping them would be a copy more.
    return x.view(y.shape).add_(y).view(x.shape)


def _channel(block: Any, x: Tensor) -> Tensor:
    """Attention between the channels of a group, then the feed-forward part."""
    x = _mixed(x, block.conv1)
    x = _add_channel_attention(block.channel_attn, x, block.norm1(x))
    x = _mixed(x, block.conv2)
    return x.add_(block.ffn(block.norm2(x)))


def _add_channel_attention(attention: Any, x: Tensor, y: Tensor) -> Tensor:
    """Add to x what attention between channels makes of y (both B, height, width, C)."""
    qkv = attention.qkv(y).flatten(1, 2)
    add_mixed(x, qkv, channel_mix(qkv, attention.groups, attention.proj.weight))
    return x.add_(attention.proj.bias)


def add_mixed(
    x: Float[Tensor, "B height width C"], qkv: Float[Tensor, "B P 3C"], mix: Float[Tensor, "B C C"]
) -> None:
    """Add to x what `channel_mix` makes of the values."""
    value = qkv[..., 2 * mix.shape[-1] :]
    x.view(value.shape).baddbmm_(value, mix)


def channel_mix(
    qkv: Float[Tensor, "B P 3C"], groups: int, weight: Float[Tensor, "C C"]
) -> Float[Tensor, "B C C"]:
    """Return, for each picture, what turns values (P, C) into attention's projected output (P, C).

    A = softmax(Qᵀ K / √P) mixes the channels of each group, out = W A V + b. Instead of mixing P
    positions, W A, of a picture's own, is applied to V: one product, and none of Q, K and V is
    copied to split it into groups. Qᵀ K of all channels is computed for its diagonal blocks alone:
    a twelfth of the block's arithmetic, less time than a copy of Q and K.

    Args:
        qkv: Queries, keys and values; contiguous.
        groups: Of channels.
        weight: The projection's.
    """
    batch, positions, channels = *qkv.shape[:2], len(weight)
    size = channels // groups
    query, key = qkv[..., :channels], qkv[..., channels : 2 * channels]  # (B, P, C)
    products = _float_product(query.transpose(1, 2), key)  # (B, C, C)
    products = products.view(batch, groups, size, groups, size)
    products = products.diagonal(dim1=1, dim2=3).movedim(-1, 1)  # (B, G, D, D)
    mix = (products * positions**-0.5).softmax(-1).to(qkv.dtype)
    # (B, C, C): from the values' channels g, j to the output's channel c
    mix = torch.einsum("bgij,cgi->bgjc", mix, weight.view(channels, groups, size))
    return mix.reshape(batch, channels, channels)


def _float_product(left: Tensor, right: Tensor) -> Tensor:
    """Return a batched product in float32: its sums go over positions, beyond float16's range."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())
