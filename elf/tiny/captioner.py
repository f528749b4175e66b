"""The tiny captioner: Florence-2 in miniature, prompted with the same task tokens."""

from pathlib import Path
from typing import TYPE_CHECKING

from elf.tiny.store import save_half, seeded
from elf.tiny.tokens import bart_tokenizer
from elf.world.words import vocabulary

if TYPE_CHECKING:
    from transformers import Florence2ForConditionalGeneration, Florence2Processor

RESOLUTION = 64
"""Side of the square input, px."""

STRIDES = (2, 2, 2)
"""How far each stage of the vision tower steps; their product is px for one image token."""

IMAGE_TOKENS = (RESOLUTION // (STRIDES[0] * STRIDES[1] * STRIDES[2])) ** 2 + 1
"""The grid of the last stage, and its mean."""

WIDTH = 96


def processor() -> "Florence2Processor":
    """Florence-2's processor over the world's words."""
    from transformers import CLIPImageProcessor, Florence2Processor

    pictures = CLIPImageProcessor(
        size={"height": RESOLUTION, "width": RESOLUTION},
        do_center_crop=False,
        crop_size={"height": RESOLUTION, "width": RESOLUTION},
    )
    pictures.image_seq_length = IMAGE_TOKENS
    return Florence2Processor(
        image_processor=pictures,
        tokenizer=bart_tokenizer(vocabulary()),
        post_processor_config={"pure_text": {}},
    )


def model(processor: "Florence2Processor") -> "Florence2ForConditionalGeneration":
    """Florence-2 with a three-stage DaViT and a BART of two and two layers."""
    from transformers import (
        BartConfig,
        Florence2Config,
        Florence2ForConditionalGeneration,
        GenerationConfig,
    )
    from transformers.models.florence2 import Florence2VisionConfig

    tokenizer = processor.tokenizer
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "decoder_start_token_id": tokenizer.eos_token_id,
    }
    text = BartConfig(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=4 * WIDTH,
        decoder_ffn_dim=4 * WIDTH,
        max_position_embeddings=256,
        forced_bos_token_id=None,
        forced_eos_token_id=None,
        is_encoder_decoder=True,
        **special,
    )
    vision = Florence2VisionConfig(
        depths=(1, 1, 1),
        patch_size=(5, 3, 3),
        patch_stride=STRIDES,
        patch_padding=(2, 1, 1),
        patch_prenorm=(False, True, True),
        embed_dim=(32, 64, WIDTH),
        num_heads=(2, 4, 4),
        num_groups=(2, 4, 4),
        window_size=8,
        drop_path_rate=0.0,
        projection_dim=WIDTH,
        max_temporal_embeddings=4,
        max_position_embeddings=16,
    )
    captioner = Florence2ForConditionalGeneration(
        Florence2Config(
            text_config=text.to_dict(),
            vision_config=vision.to_dict(),
            image_token_id=tokenizer.image_token_id,
            **special,
        )
    )
    captioner.generation_config = GenerationConfig(max_new_tokens=64, **special)
    return captioner


def save(
    captioner: "Florence2ForConditionalGeneration",
    processor: "Florence2Processor",
    folder: str | Path,
) -> Path:
    """Write model and processor with half-precision weights."""
    save_half(captioner, folder)
    processor.save_pretrained(folder)
    return Path(folder)


def build(folder: str | Path, seed: int = 0) -> Path:
    """Write an untrained captioner."""
    import torch

    prompts = processor()
    with seeded(seed):
        captioner = model(prompts)
        # Tied embeddings make an untrained decoder repeat its start token, which ends the
        # text: special tokens get almost no logit, and the position decides on the word.
        decoder = captioner.model.language_model.decoder
        with torch.no_grad():
            decoder.embed_tokens.weight[prompts.tokenizer.all_special_ids] *= 0.01
            decoder.embed_positions.weight *= 20
        return save(captioner, prompts, folder)
