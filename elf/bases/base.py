"""A base model and its parts, wherever they come from, each loaded when it is needed."""

import copy
import hashlib
import importlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from elf.bases.checkpoint import CheckpointParts, empty
from elf.bases.chunks import CAPTION_TOKENS, CHUNK
from elf.bases.detect import refuse_pickled
from elf.bases.encoder import LatentEncoder
from elf.bases.families import Family, FamilyName, tokenizer_part
from elf.bases.folder import FolderParts
from elf.bases.schedule import noise_schedule, overridden, sampler
from elf.bases.text import States, encode_text, skip_layers
from elf.errors import ElfError
from elf.pretrained import expanded, model_folder
from elf.resources import find


class Parts(Protocol):
    """Where a base's parts come from.

    Attributes:
        where: The file or folder, for messages.
        family: What it is.
        scheduler: Configuration of its sampler.
    """

    where: Path
    family: Family
    scheduler: dict[str, Any]

    def config(self, part: str) -> dict[str, Any]:
        """Return the configuration of a part."""

    def network(self, part: str, cls: Any, dtype: torch.dtype) -> nn.Module:
        """Load a part by its class, in evaluation mode."""

    def tokenizer(self, encoder: str) -> Any:
        """Return the tokenizer of a text encoder."""

    def fingerprint(self, part: str) -> str:
        """Return a hash of a part's weights."""

    def settings(self, part: str) -> list[str]:
        """Return hashes of what decides a part's outputs beside its weights."""


def open_base(
    name: str,
    prediction_type: str | None = None,
    zero_terminal_snr: bool | None = None,
    clip_skip: int | None = None,
    configs: str | None = None,
    caption_tokens: int = CHUNK,
) -> "Base":
    """Find a base and say what it is; nothing large is read yet.

    Args:
        name: A folder in diffusers' layout, a hub name ``owner/name``, or a ``.safetensors`` file
            in the layout of the original code.
        prediction_type: ``epsilon`` or ``v_prediction``; None leaves it to the base, which says it
            in its scheduler's configuration or, in a file, by a tensor ``v_pred``.
        zero_terminal_snr: Whether the noise schedule is rescaled so that its last timestep has no
            signal; None leaves it to the base (in a file, a tensor ``ztsnr``).
        clip_skip: Layers of the text encoder counted from its end, from which the states are
            taken: 1 is the last, 2 the last but one. SDXL always takes 2.
        configs: A folder of component configurations and tokenizers in diffusers' layout, for a
            file whose networks are not those of SD1.5 or SDXL.
        caption_tokens: Tokens of a caption at most: 75, or 150 or 225, read in chunks of 75.

    Raises:
        ElfError: If it is missing, damaged, not whole or of another family, or an option does not
            suit it.
    """
    path = expanded(find(name))
    refuse_pickled(path)
    parts: Parts
    if path.suffix.lower() == ".safetensors":
        if not path.is_file():
            raise ElfError(f"base model: no file {name}; give a file, a folder or a hub name")
        folder = model_folder(configs, "base model's configs") if configs is not None else None
        parts = CheckpointParts(path, folder)
    elif configs is not None:
        raise ElfError(f"configs: {name} is no single file; a folder has its own configurations")
    else:
        parts = FolderParts(name)
    return Base(name, parts, prediction_type, zero_terminal_snr, clip_skip, caption_tokens)


class Base:
    """A base model, with the options that change what it is trained as.

    Attributes:
        name: What the user calls it.
        family: ``sd15`` or ``sdxl``.
        text_encoder_names: Its text encoders, in the pipeline's order.
        clip_skip: As asked for, where the family would do otherwise; else None.
        caption_tokens: Tokens of a caption at most.
    """

    def __init__(
        self,
        name: str,
        parts: Parts,
        prediction_type: str | None = None,
        zero_terminal_snr: bool | None = None,
        clip_skip: int | None = None,
        caption_tokens: int = CHUNK,
    ) -> None:
        if caption_tokens not in CAPTION_TOKENS:
            raise ElfError(
                f"caption_tokens: captions are read in 1 to 3 chunks of {CHUNK} tokens, not in "
                f"{caption_tokens} tokens; give 75, 150 or 225"
            )
        self.name = name
        self._parts = parts
        self._family = parts.family
        self.family: FamilyName = parts.family.name
        self.text_encoder_names = tuple(parts.family.text_encoders)
        self._schedule = overridden(parts.scheduler, prediction_type, zero_terminal_snr, name)
        self.clip_skip = self._effective(clip_skip)
        self.caption_tokens = caption_tokens
        self._fingerprints: dict[str, str] = {}

    def _effective(self, clip_skip: int | None) -> int | None:
        if clip_skip is None:
            return None
        if self._family.conditions:
            if clip_skip != 2:
                raise ElfError(
                    f"clip_skip: {clip_skip} is not for {self._family.title}, whose denoiser "
                    "always takes the last but one layer; set it to null"
                )
            return None
        layers = int(self._parts.config("text_encoder").get("num_hidden_layers", 12))
        if not 1 <= clip_skip <= layers:
            raise ElfError(
                f"clip_skip: {clip_skip} does not fit a text encoder of {layers} layers; "
                "give 1 (its last layer) or 2 (the one before), or null"
            )
        return clip_skip if clip_skip > 1 else None

    @property
    def where(self) -> Path:
        """Its file or folder."""
        return self._parts.where

    @property
    def conditions(self) -> bool:
        """Whether the denoiser takes ``pooled`` and `added_time_ids` beside the text states."""
        return self._family.conditions

    @property
    def sampler_config(self) -> dict[str, Any]:
        """Configuration of the sampler, prediction type and noise schedule included."""
        return dict(self._schedule)

    @property
    def prediction_type(self) -> str:
        """What the denoiser predicts: ``epsilon`` or ``v_prediction``."""
        return str(self._schedule["prediction_type"])

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether the last timestep has no signal."""
        return bool(self._schedule.get("rescale_betas_zero_snr", False))

    @cached_property
    def noise_schedule(self) -> Any:
        """The training noise schedule, as diffusers' ``DDPMScheduler``."""
        return noise_schedule(self._schedule)

    def config(self, part: str) -> dict[str, Any]:
        """Return the configuration of a part."""
        return self._parts.config(part)

    def with_parts(self, change: Callable[[Parts], Parts]) -> "Base":
        """Return the same base with parts from elsewhere.

        Args:
            change: Is given its parts, and returns the others.
        """
        other = copy.copy(self)
        other._parts = change(self._parts)
        return other

    def unet(self, dtype: torch.dtype) -> nn.Module:
        """Load the denoising network."""
        return self._load("unet", "diffusers", self._family.denoiser, dtype)

    def text_encoder(self, name: str, dtype: torch.dtype) -> nn.Module:
        """Load a text encoder, shortened by ``clip_skip``."""
        encoder = self._load(name, "transformers", self._family.text_encoders[name], dtype)
        if self.clip_skip is not None:
            skip_layers(encoder, self.clip_skip)
        return encoder

    def empty(self, part: str) -> nn.Module:
        """Return the denoiser or a text encoder without weights, for the names of its layers."""
        denoiser = part == "unet"
        library = importlib.import_module("diffusers" if denoiser else "transformers")
        family = self._family
        cls = getattr(library, family.denoiser if denoiser else family.text_encoders[part])
        network: nn.Module = empty(cls, self._parts.config(part))
        return network

    def _load(self, part: str, library: str, cls: str, dtype: torch.dtype) -> nn.Module:
        return self._parts.network(part, getattr(importlib.import_module(library), cls), dtype)

    def vae(self) -> Any:
        """Load the VAE, which stays in float32."""
        from elf.bases.vae import Float32VAE

        return self._parts.network("vae", Float32VAE, torch.float32).eval()

    def tokenizer(self, name: str) -> Any:
        """Load the tokenizer of a text encoder."""
        return self._parts.tokenizer(name)

    def pipeline(
        self,
        unet: nn.Module,
        text_encoders: Mapping[str, nn.Module] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Any:
        """Return diffusers' pipeline around networks, with a sampler that suits the base.

        Args:
            unet: The denoising network.
            text_encoders: Those that are at hand already, by name; the others are loaded.
            dtype: Of those that are loaded; the VAE is in float32 and decodes a picture at a time.
        """
        import diffusers

        given = text_encoders or {}
        networks: dict[str, Any] = {"unet": unet, "vae": self.vae()}
        for name in self.text_encoder_names:
            networks[name] = given[name] if name in given else self.text_encoder(name, dtype)
            networks[tokenizer_part(name)] = self.tokenizer(name)
        options: dict[str, Any] = (
            {"add_watermarker": False}
            if self._family.conditions
            else {
                "safety_checker": None,
                "feature_extractor": None,
                "requires_safety_checker": False,
            }
        )
        pipeline = getattr(diffusers, self._family.pipeline)(
            **networks, scheduler=sampler(self._schedule), **options
        )
        pipeline.vae.enable_slicing()
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def prompt_encoder(self, pipeline: Any) -> Callable[[list[str]], States]:
        """Return what makes a pipeline's text states as training does."""
        encoders = {name: getattr(pipeline, name) for name in self.text_encoder_names}
        tokenizers = {name: getattr(pipeline, tokenizer_part(name)) for name in encoders}

        def encode(prompts: list[str]) -> States:
            device = next(encoders["text_encoder"].parameters()).device  # they are moved about
            models = (self.family, tokenizers, encoders)
            return encode_text(*models, prompts, device, self.caption_tokens)

        return encode

    def fingerprint(self, part: str) -> str:
        """Return the sha256 of the weights of ``unet``, ``vae`` or a text encoder (read once)."""
        if part not in self._fingerprints:
            self._fingerprints[part] = self._parts.fingerprint(part)
        return self._fingerprints[part]

    def network_fingerprints(self) -> dict[str, str]:
        """Return hashes of the weights and configurations of all networks, by part."""
        parts = ("unet", "vae", *self.text_encoder_names)
        return {
            part: hashlib.sha256(
                "".join([self.fingerprint(part), *self._parts.settings(part)]).encode()
            ).hexdigest()
            for part in parts
        }

    def encoder_fingerprints(self) -> dict[str, str]:
        """Return hashes of all that decides the cached outputs: ``vae`` and ``text``.

        Weights, the VAE's configuration (scaling and shift), the tokenizers, ``clip_skip`` and
        ``caption_tokens``.
        """
        text: list[str] = []
        for name in self.text_encoder_names:
            text += [self.fingerprint(name), *self._parts.settings(tokenizer_part(name))]
        if self.clip_skip is not None:
            text.append(f"clip_skip={self.clip_skip}")
        if self.caption_tokens != CHUNK:  # caches from before there was a choice stay valid
            text.append(f"caption_tokens={self.caption_tokens}")
        hashes = {"vae": [self.fingerprint("vae"), *self._parts.settings("vae")], "text": text}
        return {
            name: hashlib.sha256("".join(each).encode()).hexdigest()
            for name, each in hashes.items()
        }

    def encoder(self, device: torch.device) -> LatentEncoder:
        """Return what turns pictures and captions into latents and text states."""
        return LatentEncoder(self, device)
