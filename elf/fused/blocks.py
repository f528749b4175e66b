"""The blocks of diffusers' UNets, with what stands between their products in few kernels.

A block keeps its modules, their names and its weights; its class becomes one here that does the
same in another way. Blocks with what no SD1.5 or SDXL has (another activation, resizing within)
stay as they are.
"""

from typing import Any, TypeGuard

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from torch.nn import functional

from elf.fused.attention import FusedAttention
from elf.fused.operators import add_with_bias, geglu, group_norm


def convolve(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return a convolution's output before its bias, and the bias; an adapted one adds its own."""
    if type(layer) is not nn.Conv2d:
        return layer(x), None
    if _is_product(layer):
        out = functional.linear(x.permute(0, 2, 3, 1), layer.weight.flatten(1))
        return out.permute(0, 3, 1, 2), layer.bias
    return layer._conv_forward(x, layer.weight, None), layer.bias


def _is_product(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a convolution is a product of what lies side by side in memory."""
    return (
        type(layer) is nn.Conv2d
        and layer.kernel_size == layer.stride == (1, 1)
        and layer.padding == (0, 0)
        and layer.groups == 1
    )


def _sum(*vectors: Tensor | None) -> Tensor | None:
    """Return the sum of those that there are."""
    given = [vector for vector in vectors if vector is not None]
    return sum(given[1:], given[0]) if given else None


class FusedResnetBlock(ResnetBlock2D):  # type: ignore[misc]  # diffusers has no types
    """A residual block: twice norm, SiLU and convolution, and the step's embedding between."""

    @staticmethod
    def fits(block: ResnetBlock2D) -> bool:
        """Whether a block does nothing else."""
        return (
            isinstance(block.nonlinearity, nn.SiLU)
            and block.time_embedding_norm == "default"
            and block.upsample is None
            and block.downsample is None
            and block.output_scale_factor == 1
            and block.dropout.p == 0
            and not block.skip_time_act
        )

    def forward(self, input_tensor: Tensor, temb: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the block's output; see diffusers."""
        hidden, bias = convolve(self.conv1, group_norm(self.norm1, input_tensor, silu=True))
        shift = None if bias is None else bias.expand(len(hidden), -1)
        if self.time_emb_proj is not None:
            shift = _sum(self.time_emb_proj(functional.silu(temb)), bias)
        hidden = group_norm(self.norm2, hidden, shift, silu=True)
        hidden, bias = convolve(self.conv2, hidden)
        if self.conv_shortcut is not None:
            input_tensor, other = convolve(self.conv_shortcut, input_tensor)
            bias = _sum(bias, other)
        return add_with_bias(input_tensor, hidden, bias)


class FusedTransformer(Transformer2DModel):  # type: ignore[misc]
    """Attention over a picture: what is laid out channels last is a row of tokens already."""

    @staticmethod
    def fits(block: Transformer2DModel) -> bool:
        """Whether a block's input is a picture."""
        return bool(block.is_input_continuous)

    def _operate_on_continuous_inputs(self, hidden_states: Tensor) -> tuple[Tensor, int]:
        hidden = group_norm(self.norm, hidden_states)
        if _is_product(self.proj_in):
            weight, bias = self.proj_in.weight.flatten(1), self.proj_in.bias
            tokens = functional.linear(_tokens(hidden), weight, bias)
        elif self.use_linear_projection:
            tokens = self.proj_in(_tokens(hidden))
        else:
            tokens = _tokens(self.proj_in(hidden))
        return tokens, tokens.shape[-1]

    def _get_output_for_continuous_inputs(
        self,
        hidden_states: Tensor,
        residual: Tensor,
        batch_size: int,
        height: int,
        width: int,
        inner_dim: int,
    ) -> Tensor:
        if _is_product(self.proj_out):
            weight, bias = self.proj_out.weight.flatten(1), self.proj_out.bias
            picture = _picture(functional.linear(hidden_states, weight, bias), height, width)
        elif self.use_linear_projection:
            picture = _picture(self.proj_out(hidden_states), height, width)
        else:
            picture = self.proj_out(_picture(hidden_states, height, width))
        return picture + residual


class FusedGeglu(GEGLU):  # type: ignore[misc]
    """The gate of a feed-forward layer."""

    @staticmethod
    def fits(layer: GEGLU) -> bool:
        """Whether there is nothing else to it."""
        return True

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the gated values."""
        return geglu(self.proj(hidden_states))


class FusedGroupNorm(nn.GroupNorm):
    """A norm with the SiLU after it."""

    def forward(self, input: Tensor) -> Tensor:
        """Return SiLU of the norm."""
        return group_norm(self, input, silu=True)


def _tokens(picture: Tensor) -> Tensor:
    """Return (B, C, h, w) as (B, h w, C), without a copy if it is channels last."""
    return picture.permute(0, 2, 3, 1).flatten(1, 2)


def _picture(tokens: Tensor, height: int, width: int) -> Tensor:
    """Return (B, h w, C) as (B, C, h, w), without a copy."""
    return torch.unflatten(tokens, 1, (height, width)).permute(0, 3, 1, 2)


FUSED: dict[type[nn.Module], Any] = {
    ResnetBlock2D: FusedResnetBlock,
    Transformer2DModel: FusedTransformer,
    GEGLU: FusedGeglu,
}


def fuse(unet: Any, device: torch.device | None = None) -> None:
    """Let a frozen UNet do the same in fewer kernels, in place.

    Args:
        unet: With its adapter.
        device: Where it will work. Weights that are joined are put there now: done later, it would
            leave their old places as holes in the device's memory.
    """
    for module in unet.modules():
        fused = FUSED.get(type(module))
        if fused is not None and fused.fits(module):
            module.__class__ = fused
        if type(module) is Attention and FusedAttention.fits(module):
            module.set_processor(FusedAttention(module))
            if module.processor.joined is not None:
                module.processor.joined.join(device)
        if type(module) is nn.Conv2d and not module.weight.requires_grad:
            weight = module.weight
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    if (
        type(getattr(unet, "conv_act", None)) is nn.SiLU
        and type(unet.conv_norm_out) is nn.GroupNorm
    ):
        unet.conv_norm_out.__class__, unet.conv_act = FusedGroupNorm, nn.Identity()
