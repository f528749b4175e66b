"""A Stable Diffusion base model on disk, and its parts, each loaded when it is needed."""

import hashlib
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from elf.files import sha256_file
from elf.pretrained import load, model_folder

FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/*",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
)
WEIGHTS = {"unet": FILES[8], "vae": FILES[6], "text": FILES[4]}


class StableDiffusionBase:
    """The parts of an SD1.5-class pipeline in diffusers' folder layout.

    Weights are read from safetensors alone: a pickled file of a stranger could run code.

    Args:
        name: A folder, or a hub name ``owner/name``.

    Raises:
        ElfError: If it is not there, or not whole.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = model_folder(name, "base model", FILES)
        self._fingerprints: dict[str, str] = {}

    def part(self, cls: Any, part: str, **options: Any) -> Any:
        """Load one part of the folder by its class."""
        return load(
            cls.from_pretrained, self.folder, f"base model ({part})", subfolder=part, **options
        )

    def unet(self, dtype: torch.dtype) -> nn.Module:
        """Load the denoising network."""
        from diffusers import UNet2DConditionModel

        unet: nn.Module = self.part(UNet2DConditionModel, "unet", dtype=dtype, use_safetensors=True)
        return unet

    @cached_property
    def noise_schedule(self) -> Any:
        """The training noise schedule, as diffusers' ``DDPMScheduler``."""
        from diffusers import DDPMScheduler

        return self.part(DDPMScheduler, "scheduler")

    def pipeline(self, unet: nn.Module, dtype: torch.dtype) -> Any:
        """Return a ``StableDiffusionPipeline`` around a network, with the base's own sampler."""
        from diffusers import StableDiffusionPipeline

        pipeline = load(
            StableDiffusionPipeline.from_pretrained,
            self.folder,
            "base model",
            unet=unet,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            dtype=dtype,
            use_safetensors=True,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def fingerprint(self, part: Literal["unet", "vae", "text"]) -> str:
        """Return the sha256 of a part's weights (read once)."""
        if part not in self._fingerprints:
            self._fingerprints[part] = sha256_file(self.folder / WEIGHTS[part])
        return self._fingerprints[part]

    def encoder_fingerprints(self) -> dict[str, str]:
        """Return hashes of all that decides the cached outputs: ``vae`` and ``text``.

        Weights, the VAE's configuration (scaling and shift) and the tokenizer's files.
        """
        tokenizer = sorted(path for path in (self.folder / "tokenizer").iterdir() if path.is_file())
        parts = {
            "vae": [self.fingerprint("vae"), sha256_file(self.folder / "vae/config.json")],
            "text": [self.fingerprint("text"), *map(sha256_file, tokenizer)],
        }
        return {
            name: hashlib.sha256("".join(hashes).encode()).hexdigest()
            for name, hashes in parts.items()
        }

    def encoder(self, device: torch.device) -> "LatentEncoder":
        """Return what turns pictures and captions into latents and text states."""
        return LatentEncoder(self, device)


class LatentEncoder:
    """The VAE's encoder and the text encoder of a base: what runs once, before training.

    The VAE stays in float32: it costs little, and some VAEs overflow in float16.
    """

    def __init__(self, base: StableDiffusionBase, device: torch.device) -> None:
        from diffusers import AutoencoderKL
        from transformers import CLIPTextModel, CLIPTokenizer

        self.base = base
        self.device = device
        # B, C, h, w: latents; N: tokens (77 for CLIP); D: width of the text states
        self.vae = base.part(AutoencoderKL, "vae", use_safetensors=True).to(device).eval()
        self.tokenizer = base.part(CLIPTokenizer, "tokenizer")
        self.text = base.part(CLIPTextModel, "text_encoder", use_safetensors=True)
        self.text.to(device).eval()
        self.latent_factor = 2 ** (len(self.vae.config.block_out_channels) - 1)

    def fingerprints(self) -> dict[str, str]:
        """Return the sha256 of the weights of ``vae`` and ``text``."""
        return self.base.encoder_fingerprints()

    @torch.inference_mode()
    def encode_pictures(
        self, pixels: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
        """Return mean and standard deviation of the scaled latents of pictures in −1..1."""
        posterior = self.vae.encode(pixels.to(self.device, torch.float32)).latent_dist
        scale = self.vae.config.scaling_factor
        shift = self.vae.config.shift_factor or 0.0
        return (posterior.mean - shift) * scale, posterior.std * scale

    @torch.inference_mode()
    def encode_captions(self, captions: list[str]) -> Float[Tensor, "B N D"]:
        """Return the text encoder's last hidden states; captions are cut at its length."""
        tokens = self.tokenizer(
            captions,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        states: Tensor = self.text(tokens.input_ids.to(self.device))[0]
        return states.float()
