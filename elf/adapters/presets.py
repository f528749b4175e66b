"""Named choices of layers, as ends of module names in diffusers' UNets and transformers' CLIP."""

from typing import Literal

Part = Literal["unet", "text_encoder", "text_encoder_2"]
"""The networks of a pipeline that can carry an adapter, by their names in it."""

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


def preset(part: Part, name: str) -> tuple[str, ...]:
    """Return the ends of names that a preset stands for; not every network has all of them."""
    return (UNET if part == "unet" else TEXT)[name]


def canonical(name: str) -> str:
    """Return a module's name without the level that not all versions of transformers have.

    CLIP's text encoders have it with a projection (SDXL's second), and before transformers 5 all.
    """
    return name.removeprefix("text_model.")
