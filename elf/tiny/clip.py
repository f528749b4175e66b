"""The tiny CLIP: picture and caption in one space, for CLIP-T, CLIP-I and retrieval."""

from pathlib import Path
from typing import TYPE_CHECKING

from elf.tiny.store import save_half, seeded
from elf.tiny.tokens import clip_tokenizer
from elf.world.words import vocabulary

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPProcessor

RESOLUTION = 64
"""Side of the square input, px."""

WIDTH = 96


def processor() -> "CLIPProcessor":
    """CLIP's processor over the world's words; pictures are scaled to 64×64 without a crop."""
    from transformers import CLIPImageProcessor, CLIPProcessor

    side = {"height": RESOLUTION, "width": RESOLUTION}
    pictures = CLIPImageProcessor(size=side, crop_size=side, do_center_crop=False)
    return CLIPProcessor(image_processor=pictures, tokenizer=clip_tokenizer(vocabulary()))


def model(processor: "CLIPProcessor") -> "CLIPModel":
    """CLIP with two three-layer towers; picture patches of 8×8 px."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    tokenizer = processor.tokenizer
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "projection_dim": WIDTH,
    }
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **tower,
    )
    vision = CLIPVisionConfig(image_size=RESOLUTION, patch_size=8, **tower)
    return CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=WIDTH)
    )


def save(clip: "CLIPModel", processor: "CLIPProcessor", folder: str | Path) -> Path:
    """Write model and processor with half-precision weights."""
    save_half(clip, folder)
    processor.save_pretrained(folder)
    return Path(folder)


def build(folder: str | Path, seed: int = 0) -> Path:
    """Write an untrained CLIP."""
    prompts = processor()
    with seeded(seed):
        return save(model(prompts), prompts, folder)
