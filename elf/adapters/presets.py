"""Named choices of layers: ends of module names in UNets and CLIP, places in language models."""

import re
from collections.abc import Iterable
from typing import Literal

Part = Literal["unet", "text_encoder", "text_encoder_2", "language_model"]
"""The networks that can carry an adapter, by their names in a pipeline."""

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
LANGUAGE_MODEL: Part = "language_model"

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEEDFORWARD = ("ff.net.0.proj", "ff.net.2")
PROJECTIONS = ("proj_in", "proj_out")
# All of a ResnetBlock2D, its projection of the timestep's embedding included, and what changes the
# resolution. Not conv_in, conv_out and the timestep's own embedding: kohya leaves them out, too.
CONVOLUTIONS = (
    *("conv1", "conv2", "conv_shortcut", "time_emb_proj"),
    *("downsamplers.0.conv", "upsamplers.0.conv"),
)

UNET = {
    "attention": ATTENTION,
    "attention+feedforward": ATTENTION + FEEDFORWARD,
    # all that kohya's LoRA trains (the linear layers and 1×1 convolutions of Transformer2DModel)
    "attention+feedforward+projections": ATTENTION + FEEDFORWARD + PROJECTIONS,
    # all that kohya's LoRA with conv_dim (LoCon) trains
    "attention+feedforward+convolutions": ATTENTION + FEEDFORWARD + PROJECTIONS + CONVOLUTIONS,
}
TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
TEXT = {
    "attention": TEXT_ATTENTION,
    "attention+feedforward": (*TEXT_ATTENTION, "fc1", "fc2"),  # kohya's choice
}


LANGUAGE = ("attention", "attention+feedforward")
IN_ATTENTION = re.compile(r"(^|\.)\w*att(n|ention)\w*\.")
ROUTER = re.compile(r"(^|\.)(gate|router|score)$")
"""Chooses experts: an adapter there would change which learn what."""


def taken(part: Part, name: str, layers: Iterable[str]) -> set[str]:
    """Return the layers that a preset stands for; none if there is no such preset for the part.

    A language model's are known by their place, as its classes call them otherwise: within one of
    its numbered layers, and there in the attention or not. Its head and embeddings are none.

    Args:
        part: The network.
        name: The preset's.
        layers: Those of the network that can carry an adapter.
    """
    if part != "language_model":
        ends = (UNET if part == "unet" else TEXT)[name]
        return {each for each in layers if any(each == e or each.endswith(f".{e}") for e in ends)}
    if name not in LANGUAGE:
        return set()
    inner = {each for each in layers if re.search(r"\.\d+\.", each) and not ROUTER.search(each)}
    return inner if name == LANGUAGE[1] else {each for each in inner if IN_ATTENTION.search(each)}


def canonical(name: str) -> str:
    """Return a module's name without the level that not all versions of transformers have.

    CLIP's text encoders have it with a projection (SDXL's second), and before transformers 5 all.
    """
    return name.removeprefix("text_model.")
