"""The negative log-likelihood of tokens, without all logits at once.

Of a small model with a large vocabulary the logits are the largest of all tensors: 8,192 tokens ×
151,936 words are 5 GB in float32. Here they are made some tokens at a time, and what the hidden
states' gradient needs of them is computed on the way; nothing of the size of the vocabulary is kept
(the idea of cut cross-entropy, Wijmans et al. 2024, in plain matrix products).

Shapes: N tokens, D width, V words.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

IGNORED = -100
"""The label of a token that is not trained on."""

CHUNK = 1 << 25
"""Logits at a time, 128 MiB of float32."""


class _Likelihood(torch.autograd.Function):
    """−log p of each label, and whether it is the likeliest word; W is frozen."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        wanted = ctx.needs_input_grad[0]
        slope = torch.empty_like(hidden) if wanted else None
        errors = hidden.new_empty(len(hidden), dtype=torch.float32)
        correct = torch.empty(len(hidden), dtype=torch.bool, device=hidden.device)
        size = max(1, CHUNK // len(weight))
        for start in range(0, len(hidden), size):
            part = slice(start, start + size)
            label = labels[part].clamp(min=0)[:, None]
            logits = (hidden[part] @ weight.T).float()
            own = logits.gather(1, label)
            correct[part] = own[:, 0] >= logits.amax(1)
            total = logits.logsumexp(1, keepdim=True)
            errors[part] = (total - own)[:, 0]
            if slope is not None:  # ∂/∂h = (p − e) W, which the labels' own factors multiply later
                chance = logits.sub_(total).exp_()
                chance.scatter_add_(1, label, -torch.ones_like(own))
                slope[part] = chance.to(weight.dtype) @ weight
        trained = labels != IGNORED
        errors.mul_(trained)
        ctx.mark_non_differentiable(correct)
        if slope is not None:
            ctx.save_for_backward(slope, trained)
        return errors, correct & trained

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        slope, trained = ctx.saved_tensors
        factor = (grads[0] * trained)[:, None]
        return (slope * factor).to(slope.dtype), None, None


def token_errors(
    hidden: Float[Tensor, "N D"], weight: Float[Tensor, "V D"], labels: Int[Tensor, " N"]
) -> tuple[Float[Tensor, " N"], Tensor]:
    """Return −log p of each token's label, and whether no other word is likelier.

    Args:
        hidden: The model's last states.
        weight: Of its head, frozen and without a bias.
        labels: The word that follows each token; ``IGNORED`` where none is trained on: 0 and False.
    """
    errors, correct = _Likelihood.apply(hidden, weight, labels)
    return errors, correct


def errors_of_logits(
    logits: Float[Tensor, "N V"], labels: Int[Tensor, " N"]
) -> tuple[Float[Tensor, " N"], Tensor]:
    """Return the same of logits, for heads of another form."""
    trained = labels != IGNORED
    label = labels.clamp(min=0)[:, None]
    wide = logits.float()
    own = wide.gather(1, label)[:, 0]
    errors = (wide.logsumexp(1) - own) * trained
    return errors, (own >= wide.amax(1)).detach() & trained
