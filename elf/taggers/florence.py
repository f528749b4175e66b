"""Florence-2 as a captioner (Xiao et al. 2023, arXiv:2311.06242), by transformers' own classes."""

import contextlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from elf.errors import ElfError, ElfWarning
from elf.pretrained import load, model_folder
from elf.taggers.decoding import FastDecoder
from elf.taggers.florence_step import UnsupportedError
from elf.taggers.outputs import EMPTY, CaptionOutput
from elf.taggers.preprocess import FlorencePreprocess

WHAT = "captioner (model.florence.model)"
FILES = ("config.json", "*.json", "*.safetensors")  # never pickled weights

SLOWLY = "captions are decoded by generate(), several times slower"

Decoding = Literal["auto", "fast", "plain"]
Task = Literal["<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>"]


@dataclass(frozen=True)
class FlorenceConfig:
    """A Florence-2 captioner.

    Args:
        model: Folder of a Florence-2 in transformers' own format, or a hub name (owner/name).
        task: How detailed the caption is; the task token is the whole prompt.
        max_new_tokens: Where a caption is cut at the latest.
        dtype: ``auto`` takes float16 on CUDA and float32 on a CPU.
        decoding: ``plain`` is transformers' own ``generate()``; ``fast`` an own loop that gives the
            same tokens, as CUDA graphs on CUDA; ``auto`` takes ``fast`` on CUDA alone.
    """

    model: str = "florence-community/Florence-2-large-ft"
    task: Task = "<MORE_DETAILED_CAPTION>"
    max_new_tokens: int = 192
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    decoding: Decoding = "auto"


def florence_folder(config: FlorenceConfig) -> Path:
    """Return the captioner's folder, downloaded if it is named by its hub name."""
    return model_folder(config.model, WHAT, FILES)


def florence_preprocess(folder: Path) -> FlorencePreprocess:
    """Return the preprocessing for the captioner in a folder; nothing of it is loaded.

    Raises:
        ElfError: If the processor's settings are missing or name no size.
    """
    settings = _settings(folder)
    try:
        size = settings["size"]
        return FlorencePreprocess(
            int(size["height"]), int(size["width"]), int(settings.get("resample", 3))
        )
    except (KeyError, TypeError, ValueError):
        raise ElfError(
            f"{WHAT}: {folder} has no processor_config.json or preprocessor_config.json with a "
            "size (height, width); is it a Florence-2?"
        ) from None


def _settings(folder: Path) -> dict[str, Any]:
    """Return the image processor's settings: nested in transformers 5, a file of its own before."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        try:
            settings = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        settings = settings.get("image_processor", settings)
        if "size" in settings:
            return dict(settings)
    return {}


class FlorenceCaptioner:
    """Greedy captions of batches of pictures.

    Attributes:
        dtype: The type that the weights have, by name.
    """

    def __init__(self, config: FlorenceConfig, folder: Path, device: str = "cpu") -> None:
        from transformers import AutoProcessor, Florence2ForConditionalGeneration

        self.config = config
        self.device = torch.device(device)
        auto = "float16" if self.device.type == "cuda" else "float32"
        self.dtype = auto if config.dtype == "auto" else config.dtype
        self._type: torch.dtype = getattr(torch, self.dtype)
        self._processor = load(AutoProcessor.from_pretrained, folder, WHAT)
        model = load(
            Florence2ForConditionalGeneration.from_pretrained,
            folder,
            WHAT,
            dtype=self._type,
            use_safetensors=True,
        )
        self.model = model.to(self.device).eval()
        # The prompt is the same for every picture: what the processor makes of a blank one.
        blank = np.zeros((*self._size(folder), 3), np.uint8)
        prompt = self._processor(text=[config.task], images=[blank], return_tensors="pt")
        self._prompt = prompt["input_ids"].to(self.device)  # (1, L)
        images = self._processor.image_processor
        self._mean = torch.tensor(images.image_mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(images.image_std, device=self.device).view(1, 3, 1, 1)
        self._scale = float(images.rescale_factor)
        self._most: int | None = None  # pictures at once; halved whenever memory runs out
        self._fast: FastDecoder | None = None
        if config.decoding == "fast" or (config.decoding, self.device.type) == ("auto", "cuda"):
            try:
                self._fast = FastDecoder(self.model, self._prompt, config.max_new_tokens)
            except UnsupportedError as error:
                warnings.warn(f"{SLOWLY}: {error}", ElfWarning, stacklevel=2)

    @staticmethod
    def _size(folder: Path) -> tuple[int, int]:
        preprocess = florence_preprocess(folder)
        return preprocess.height, preprocess.width

    def normalize(
        self, pixels: UInt8[np.ndarray, "batch height width 3"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return RGB pictures as the model's input, on its device."""
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device)
        scaled = batch.permute(0, 3, 1, 2).float() * self._scale
        return ((scaled - self._mean) / self._std).to(self._type)

    def caption(self, pixels: UInt8[np.ndarray, "batch height width 3"]) -> list[str]:
        """Return a caption for each RGB picture; empty where the model had nothing to say.

        Greedy decoding overrides what the stored generation config says (beams, a ban on
        repetitions), and a text of special tokens alone comes out as empty.
        """
        texts: list[str] = []
        while len(texts) < len(pixels):
            part = pixels[len(texts) :][: self._most]
            tokens = self._generate(part) if self._fast is None else self._decode(part, self._fast)
            if tokens is not None:
                texts += self._processor.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    def _generate(self, pixels: UInt8[np.ndarray, "batch height width 3"]) -> Tensor:
        with torch.inference_mode():
            prompt = self._prompt.expand(len(pixels), -1)
            tokens: Tensor = self.model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                pixel_values=self.normalize(pixels),
                max_new_tokens=self.config.max_new_tokens,
                do_sample=False,
                num_beams=1,
                no_repeat_ngram_size=0,
                early_stopping=False,
            )
        return tokens

    def _decode(
        self, pixels: UInt8[np.ndarray, "batch height width 3"], fast: FastDecoder
    ) -> Tensor | None:
        """Return tokens; None if that takes another try: with fewer pictures, or another way."""
        reason = ""
        try:
            return fast(self.normalize(pixels))
        except torch.OutOfMemoryError as error:
            if len(pixels) == 1:
                reason = " ".join(str(error).split())[:200]
        except Exception as error:  # a capture that fails, tokens that are not the model's
            reason = " ".join(str(error).split())[:200]
        # Out here, no traceback holds any memory.
        fast.clear()
        if self.device.type == "cuda":
            with contextlib.suppress(RuntimeError):  # the allocator of a capture that broke off
                torch.cuda.empty_cache()
        if reason:
            self._fast = None
            warnings.warn(f"{SLOWLY}: {reason}", ElfWarning, stacklevel=3)
        else:
            self._most = len(pixels) // 2
            warnings.warn(
                f"out of memory with {len(pixels)} captions at once; going on with {self._most}",
                ElfWarning,
                stacklevel=3,
            )
        return None


def refuse_speechless(captioner: FlorenceCaptioner, height: int, width: int) -> None:
    """Try a captioner on one picture: some weights give special tokens alone under some versions.

    An error is not taken for that: each picture will tell.

    Raises:
        ElfError: If it had nothing to say.
    """
    ramp = np.linspace(0, 255, height * width * 3).astype(np.uint8).reshape(1, height, width, 3)
    try:
        text = captioner.caption(ramp)[0]
    except Exception:
        return
    if not text:
        raise ElfError(
            f"{WHAT}: gave special tokens alone for a test picture; weights and transformers do "
            "not fit each other, take those of florence-community"
        )


def caption_each(
    captioner: FlorenceCaptioner, pixels: UInt8[np.ndarray, "batch height width 3"]
) -> list[CaptionOutput]:
    """Return captions of a batch; if it fails as a whole, of each picture by itself."""
    dtype = captioner.dtype
    try:
        texts = captioner.caption(pixels)
    except Exception as error:  # whatever it is (memory, a kernel): tags alone are better
        if len(pixels) == 1:
            reason = " ".join(str(error).split())[:300]
            return [CaptionOutput(None, f"failed: {reason}", dtype)]
        return [output for row in pixels for output in caption_each(captioner, row[None])]
    return [
        CaptionOutput(text, "ok", dtype) if text else CaptionOutput(None, EMPTY, dtype)
        for text in texts
    ]
