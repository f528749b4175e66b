"""The network in training and its error on a batch: tensors in, tensors out.

Shapes: B samples, C latent channels, h × w latent pixels, N tokens, D text width, P pooled width,
K strata, R rows of a batch.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from elf import objective
from elf.autocasting import without_autocast
from elf.bases import Base, added_time_ids, encode_tokens
from elf.objective import ObjectiveConfig, diffusion
from elf.training.adapted import AdaptedNetworks
from elf.training.compiling import uncompiled

Batch = Mapping[str, Any]


class Denoiser(AdaptedNetworks):
    """A UNet with the noise schedule and the objective that it is trained with.

    Args:
        unet: The network, adapter included.
        base: What the network is of: its family's conditions and its noise.
        config: The objective.
        text_encoders: Those that encode captions in each step, by name; none where the text states
            are cached.
        trains_text: Whether the text encoders carry an adapter.
        dtype: Of the networks' own weights and inputs.
    """

    alphas_cumprod: Tensor

    def __init__(
        self,
        unet: nn.Module,
        base: Base,
        config: ObjectiveConfig,
        text_encoders: Mapping[str, nn.Module] = MappingProxyType({}),
        trains_text: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoders = nn.ModuleDict(text_encoders)
        self.trains_text = trains_text
        self.family = base.family
        self.has_conditions = base.conditions
        self.prediction_type = base.prediction_type
        self.config = config
        self.dtype = dtype
        schedule = base.noise_schedule.alphas_cumprod.clone()
        self.register_buffer("alphas_cumprod", schedule, persistent=False)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The networks that carry an adapter, by their names in the base's folder."""
        return {"unet": self.unet, **(dict(self.text_encoders) if self.trains_text else {})}

    @property
    def timesteps(self) -> int:
        """T, the number of timesteps."""
        return len(self.alphas_cumprod)

    def forward(
        self, noisy: Float[Tensor, "B C h w"], timesteps: Int[Tensor, " B"], batch: Batch
    ) -> Float[Tensor, "B C h w"]:
        """Return the prediction for noisy latents under the conditions of a batch.

        Args:
            noisy: x_t.
            timesteps: t.
            batch: With ``text`` (B, N, D), or ``tokens`` to be encoded; for SDXL also ``pooled``
                (B, P), and in px (B, 2) ``original_size``, ``crop`` and ``size``.
        """
        batch = self.encoded(batch)
        text = batch["text"].to(self.dtype)
        added = None
        if self.has_conditions:
            sizes = (batch["original_size"], batch["crop"], batch["size"])
            added = {
                "text_embeds": batch["pooled"].to(self.dtype),
                "time_ids": added_time_ids(*sizes),
            }
        # Of autocast only its casts would be left, hundreds of them: weights and inputs have the
        # type already, an adapter casts its own, and norms sum up in float32 whatever their type.
        with without_autocast(noisy.device):
            prediction: Tensor = self.unet(
                noisy.to(self.dtype), timesteps, text, added_cond_kwargs=added, return_dict=False
            )[0]
        return prediction

    def encoded(self, batch: Batch) -> Batch:
        """Return a batch with the text states of its tokens, if it has tokens."""
        if "tokens" not in batch:
            return batch
        with nullcontext() if self.trains_text else torch.no_grad():
            states = encode_tokens(self.family, dict(self.text_encoders), batch["tokens"])
        return {**{key: value for key, value in batch.items() if key != "tokens"}, **states}

    def training_errors(self, batch: Batch) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Return each sample's error, as it is and as it counts.

        Args:
            batch: With conditions, what ``objective.draw`` draws, ``loss_weight`` (B,), and where
                there are any ``mask`` (B, h, w) and ``preserved`` (R,): the rows whose target is
                what the base predicts.
        """
        timesteps = batch["timesteps"]
        noisy = diffusion.add_noise(
            batch["latents"], batch["input_noise"], timesteps, self.alphas_cumprod
        )
        wanted = diffusion.target(
            self.prediction_type, batch["latents"], batch["noise"], timesteps, self.alphas_cumprod
        )
        rows = batch.get("preserved")
        if rows is not None and len(rows):
            kept = self.base_prediction(noisy[rows], timesteps[rows], rows_of(batch, rows))
            wanted = wanted.index_copy(0, rows, kept)
        errors = self._error(self(noisy, timesteps, batch), wanted, timesteps, batch.get("mask"))
        weights = objective.weight(
            self.config.weighting,
            self.prediction_type,
            timesteps,
            self.alphas_cumprod,
            self.config.min_snr_gamma,
        )
        return errors, errors * weights * batch["loss_weight"]

    def _error(
        self, prediction: Tensor, wanted: Tensor, timesteps: Tensor, mask: Tensor | None
    ) -> Float[Tensor, " B"]:
        config = self.config
        c = None
        if config.error != "mse":
            c = config.huber.thresholds(timesteps, self.alphas_cumprod)
        error = objective.training_error(config.error, prediction, wanted, c)
        return objective.reduce_error(
            error, mask if config.masked else None, config.unmasked_weight, config.mask_by_area
        )

    @torch.no_grad()
    def base_prediction(
        self, noisy: Float[Tensor, "R C h w"], timesteps: Int[Tensor, " R"], batch: Batch
    ) -> Float[Tensor, "R C h w"]:
        """Return what the base predicts: the target of prior preservation.

        DreamBooth (Ruiz et al. 2023, equation 2) trains on pictures that the base made; here the
        base's prediction itself is kept, as in Learning without Forgetting (Li & Hoiem 2016).
        """
        with self.adapter_off(), uncompiled():  # to compile it without an adapter pays for little
            prediction: Tensor = self(noisy, timesteps, batch).float()
        return prediction

    @torch.no_grad()
    def evaluation_errors(self, batch: Batch, number: int) -> Float[Tensor, "B K"]:
        """Return mean squared errors at K fixed timesteps, with noise that each sample fixes.

        The timesteps are the middles of strata of the training distribution; no weights and no
        mask. Latents are the posterior's means.

        Args:
            batch: With conditions, ``seed`` (B,) and ``latent_mean``.
            number: K.
        """
        batch = self.encoded(batch)
        latents = batch["latent_mean"]
        shape = tuple(latents.shape[1:])
        columns = []
        strata = objective.strata(number, self.config.timesteps, self.timesteps)
        for stream, timestep in enumerate(strata, 1):
            sources = diffusion.generators(batch["seed"].cpu(), stream)
            noise = diffusion.draw_noise(sources, shape).to(latents.device)
            timesteps = timestep.to(latents.device).expand(len(latents))
            schedule = self.alphas_cumprod
            noisy = diffusion.add_noise(latents, noise, timesteps, schedule)
            wanted = diffusion.target(self.prediction_type, latents, noise, timesteps, schedule)
            error = objective.training_error("mse", self(noisy, timesteps, batch), wanted)
            columns.append(objective.reduce_error(error))
        return torch.stack(columns, dim=1)


CONDITIONS = ("text", "pooled", "original_size", "crop", "size")
"""What of a batch conditions a prediction, beside tokens."""


def rows_of(batch: Batch, rows: Int[Tensor, " R"]) -> dict[str, Any]:
    """Return the conditions of some rows of a batch."""
    chosen: dict[str, Any] = {key: batch[key][rows] for key in CONDITIONS if key in batch}
    if "tokens" in batch:
        chosen["tokens"] = {name: ids[rows] for name, ids in batch["tokens"].items()}
    return chosen
