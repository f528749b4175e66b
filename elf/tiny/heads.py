"""First weights of a small Llama under which it learns to look things up within minutes.

To say again what was said, one head must look at the token before and a later one at what it saw
(Olsson et al. 2022, "In-context learning and induction heads"); from weights by lot, the first of
the two takes longer to come about than all that is left to learn. Here it is there from the start.
"""

import torch
from transformers import LlamaForCausalLM

SPREAD = 0.5
"""Of the embeddings, and of what all of them share; the matrices keep the length of a state."""

PAIRS, STRENGTH = 6, 6.0
"""Pairs of rotary dimensions that tell neighbours apart, the fastest first; weight of each."""


@torch.no_grad()
def look_back(language: LlamaForCausalLM) -> None:
    """Draw all weights by lot, but two heads of the first layer: they see one and two back.

    A direction that all embeddings share makes queries and keys that are the same for every
    token, turned against each other by one position or two.
    """
    width, size = language.config.hidden_size, language.config.head_dim
    for parameter in language.parameters():
        if parameter.ndim == 2:
            parameter.normal_(0, parameter.shape[1] ** -0.5)
    shared = torch.nn.functional.normalize(torch.randn(width), dim=0)
    embeddings = language.get_input_embeddings().weight
    embeddings.normal_(0, SPREAD)
    embeddings -= torch.outer(embeddings @ shared, shared)
    embeddings += SPREAD * width**0.5 / 2 * shared
    length = (width / 5) ** 0.5  # of the shared part once a state is brought to unit mean square

    speeds = language.config.rope_parameters["rope_theta"] ** (-torch.arange(0, size, 2) / size)

    def turned(positions: int) -> torch.Tensor:
        angles = positions * speeds[:PAIRS]
        # Not zero: a DoRA divides by the norms of rows, and peft's has no answer where they are 0.
        vector = torch.full((2, size // 2), 1e-2)
        vector[:, :PAIRS] = STRENGTH * torch.stack([angles.cos(), angles.sin()])
        outer: torch.Tensor = torch.outer(vector.flatten(), shared) / length
        return outer

    attention = language.model.layers[0].self_attn
    attention.k_proj.weight[:size] = turned(1)
    attention.q_proj.weight[:size] = turned(0)
    attention.q_proj.weight[size : 2 * size] = turned(-1)
