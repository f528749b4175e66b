"""One token of Florence-2's decoder by Triton kernels, on a CUDA device."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers.activations import GELUActivation

from elf.taggers.florence_step import State, TokenStep
from elf.taggers.product_kernels import (
    ROWS,
    add_norm,
    product_parts,
    rows_product,
    sum_norm,
    vector_product,
)
from elf.taggers.source_kernels import can_read_source, read_source
from elf.taggers.token_kernels import choose, embed, read_picture, read_text

SOURCE = 16
"""Pictures from which on it pays to read the encoder's output instead of keys and values of it."""


class KernelStep(TokenStep):
    """The same token in fewer launches: 8 to 12 a layer, and 4 to 5 around them."""

    @property
    def prefixes(self) -> list[int]:
        """The whole cache: what is masked is not read."""
        return [self.length]

    def look(self, state: State, encoded: Float[Tensor, "B S C"]) -> None:
        """Take over the encoder's output."""
        if state.cross.dim() == 3:
            state.cross[:, : encoded.shape[1]].copy_(encoded)
        else:
            super().look(state, encoded)

    def __call__(self, state: State, prefix: int) -> None:
        """Append a token to each text; what may be seen is told by the position alone."""
        x = embed(
            state.tokens, state.position, self._embedding.weight, self._positions, self._norm,
            float(self._embedding.embed_scale),
        )  # fmt: skip
        few = len(x) <= ROWS and x.element_size() == 2
        rows = self._row if len(x) == 1 else self._few_rows if few else self._rows
        logits = rows(state, x)
        choose(
            logits[:, : self._vocabulary], state.tokens, state.position, state.finished,
            state.output, self._forced, self._ends, self.greedy.pad,
        )  # fmt: skip
        state.position.add_(1)

    @property
    def _gelu(self) -> bool:
        return isinstance(self._layers[0].activation_fn, GELUActivation)  # the exact one

    def _row(self, state: State, x: Tensor) -> Tensor:
        """Return logits (1, V) at batch 1, where each product waits for its weights alone."""
        norm, gelu = None, self._gelu
        for number, layer in enumerate(self._layers):
            qkv, x = vector_product(x, *self._qkv[number], norm=norm)
            y = read_text(qkv, state.cache[number], state.position, self._scale)
            project = layer.self_attn.out_proj
            x, _ = vector_product(y, project.weight, project.bias, residual=x)
            project = layer.encoder_attn.q_proj
            y, x = vector_product(x, project.weight, project.bias, norm=layer.self_attn_layer_norm)
            y = read_picture(y, state.cross[number], state.source, self._scale)
            project = layer.encoder_attn.out_proj
            x, _ = vector_product(y, project.weight, project.bias, residual=x)
            y, x = vector_product(
                x, layer.fc1.weight, layer.fc1.bias, norm=layer.encoder_attn_layer_norm, gelu=gelu
            )
            y = y if gelu else layer.activation_fn(y)
            x, _ = vector_product(y, layer.fc2.weight, layer.fc2.bias, residual=x)
            norm = layer.final_layer_norm
        logits, _ = vector_product(x, self._head, norm=norm)
        return logits

    def _few_rows(self, state: State, x: Tensor) -> Tensor:
        """Return logits (B, V) of a 16-bit type, where cuBLAS's products are not busy enough."""
        gelu = self._gelu
        for number, layer in enumerate(self._layers):
            y = read_text(
                rows_product(x, *self._qkv[number]), state.cache[number], state.position,
                self._scale,
            )  # fmt: skip
            project = layer.self_attn.out_proj
            y = product_parts(y, project.weight)
            x = sum_norm(y, project.bias, x, layer.self_attn_layer_norm)
            project = layer.encoder_attn.q_proj
            y = self._read(state, number, product_parts(x, project.weight), project.bias)
            project = layer.encoder_attn.out_proj
            y = product_parts(y, project.weight)
            x = sum_norm(y, project.bias, x, layer.encoder_attn_layer_norm)
            y = rows_product(x, layer.fc1.weight, layer.fc1.bias, gelu)
            y = product_parts(y if gelu else layer.activation_fn(y), layer.fc2.weight)
            x = sum_norm(y, layer.fc2.bias, x, layer.final_layer_norm)
        return F.linear(x, self._head)

    def _rows(self, state: State, x: Tensor) -> Tensor:
        """Return logits (B, V)."""
        for number, layer in enumerate(self._layers):
            y = read_text(
                F.linear(x, *self._qkv[number]), state.cache[number], state.position, self._scale
            )
            x = add_norm(layer.self_attn.out_proj(y), x, layer.self_attn_layer_norm)
            attention = layer.encoder_attn
            y = self._read(state, number, attention.q_proj(x))
            x = add_norm(attention.out_proj(y), x, layer.encoder_attn_layer_norm)
            y = layer.fc2(layer.activation_fn(layer.fc1(x)))
            x = add_norm(y, x, layer.final_layer_norm)
        return F.linear(x, self._head)

    def _cross(self, batch: int, padded: int) -> Tensor:
        like: Tensor = self._positions
        if batch >= SOURCE and can_read_source(self._heads, self._width, like.dtype):
            return like.new_zeros(batch, padded, like.shape[1])
        return super()._cross(batch, padded)

    def _read(
        self, state: State, number: int, queries: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Attend to the encoder's output; queries may be parts, without their bias."""
        if state.cross.dim() > 3:
            return read_picture(queries, state.cross[number], state.source, self._scale, bias)
        attention = self._layers[number].encoder_attn
        return read_source(
            queries, state.cross, state.source, attention.k_proj.weight, attention.v_proj,
            self._heads, self._scale, bias,
        )  # fmt: skip
