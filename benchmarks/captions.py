"""How fast Florence-2 captions: Elf's captured decoding beside transformers' `generate()`.

python benchmarks/captions.py --json captions.json     # CUDA, the large model's size, float16
python benchmarks/captions.py --small                  # a CPU, a tiny size: that the script works

One run, one device, the same random weights for both sides, greedy, exactly as many new tokens (no
token ends a text), both warm: the first calls, which capture or build plans, are left out. Random
weights repeat one token for ever. So each position of the decoder is given a word, or at every
eighth four words of which the picture chooses; the rows say how many texts and tokens there were.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elf.taggers import florence_encoder

LARGE = {
    "side": 768, "embed_dim": (256, 512, 1024, 2048), "depths": (1, 1, 9, 1),
    "num_heads": (8, 16, 32, 64), "window_size": 12, "width": 1024, "layers": 12, "heads": 16,
    "vocabulary": 51289, "prompt": 12,
}  # fmt: skip
SMALL = {
    "side": 96, "embed_dim": (16, 32, 32, 64), "depths": (1, 1, 2, 1), "num_heads": (2, 4, 4, 8),
    "window_size": 5, "width": 48, "layers": 3, "heads": 4, "vocabulary": 301, "prompt": 5,
}  # fmt: skip
SPECIAL = {"bos_token_id": 0, "pad_token_id": 1, "decoder_start_token_id": 2}
TIE = 1e-2


def random_model(size: dict[str, Any], end: int | None = None, seed: int = 0) -> Any:
    """Return a Florence-2 whose random weights give varied texts.

    Args:
        size: Widths and depths, as above.
        end: The token that ends a text; none ends it.
        seed: For the weights.
    """
    from transformers import (
        BartConfig,
        Florence2Config,
        Florence2ForConditionalGeneration,
        GenerationConfig,
    )
    from transformers.models.florence2 import Florence2VisionConfig

    width, layers, heads = size["width"], size["layers"], size["heads"]
    text = BartConfig(
        vocab_size=size["vocabulary"], d_model=width, encoder_layers=layers, decoder_layers=layers,
        encoder_attention_heads=heads, decoder_attention_heads=heads, encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width, max_position_embeddings=1024, forced_bos_token_id=None,
        forced_eos_token_id=None, eos_token_id=end, **SPECIAL,
    )  # fmt: skip
    vision = Florence2VisionConfig(
        embed_dim=size["embed_dim"], depths=size["depths"], num_heads=size["num_heads"],
        num_groups=size["num_heads"], window_size=size["window_size"], projection_dim=width,
    )  # fmt: skip
    image = size["vocabulary"] - 1
    torch.manual_seed(seed)
    model = Florence2ForConditionalGeneration(
        Florence2Config(
            text_config=text.to_dict(), vision_config=vision.to_dict(), image_token_id=image
        )
    )
    model.generation_config = GenerationConfig(eos_token_id=end, **SPECIAL)
    decoder = model.model.language_model.decoder
    with torch.no_grad():
        words = decoder.embed_tokens.weight
        for position, row in enumerate(decoder.embed_positions.weight):
            choice = torch.randint(3, image, (1 if position % 8 else 4,))
            row += 3 * words[choice].sum(0)
        unit = 1 / (0.02 * width**0.5)  # makes a projection keep the size of what it projects
        for layer in decoder.layers:
            layer.self_attn.out_proj.weight *= 0.2 * unit
            layer.fc2.weight *= 0.2 * unit
            look = layer.encoder_attn  # at few places, which have a say
            look.q_proj.weight *= 2 * unit
            look.k_proj.weight *= 2 * unit
            look.v_proj.weight *= unit
            look.out_proj.weight *= 0.5 * unit
    return model.eval()


def make_prompt(size: dict[str, Any]) -> Tensor:
    """Return a prompt (1, S): the picture's places, then words."""
    image = size["vocabulary"] - 1
    places = (size["side"] // 32) ** 2 + 1
    words = [0, *range(10, 8 + size["prompt"]), 2]
    return torch.tensor([[image] * places + words])


def make_pixels(size: dict[str, Any], count: int) -> Tensor:
    """Return normalized pictures (count, 3, side, side): smooth colours under noise."""
    draw = torch.Generator().manual_seed(count)
    coarse = torch.randn(count, 3, 6, 6, generator=draw)
    smooth = torch.nn.functional.interpolate(coarse, (size["side"],) * 2, mode="bicubic")
    return smooth + 0.3 * torch.randn(smooth.shape, generator=draw)


def generate(model: Any, prompt: Tensor, pixels: Tensor, length: int) -> Tensor:
    """Return greedy tokens by transformers."""
    prompt = prompt.expand(len(pixels), -1)
    return model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), pixel_values=pixels,
        max_new_tokens=length, do_sample=False, num_beams=1,
    )  # fmt: skip


def plain_encoder(model: Any, prompt: Tensor, pixels: Tensor) -> Tensor:
    """Return the encoder's output by transformers."""
    prompt = prompt.expand(len(pixels), -1)
    embeds = model.get_input_embeddings()(prompt)
    features = model.get_image_features(pixels).pooler_output.to(embeds.dtype)
    places = (prompt == model.config.image_token_id)[..., None]
    embeds = embeds.masked_scatter(places, features)
    encoder = model.model.language_model.encoder
    return encoder(inputs_embeds=embeds, attention_mask=torch.ones_like(prompt)).last_hidden_state


def differences(
    model: Any, prompt: Tensor, pixels: Tensor, ours: Tensor, theirs: Tensor
) -> list[tuple[float, float]]:
    """Return two logits for each row that differs: of both sides' tokens where they first do.

    They are the plain model's, after the tokens that both sides share, the larger one first.
    """
    length = min(ours.shape[1], theirs.shape[1])
    differs = ours[:, :length] != theirs[:, :length]
    found = []
    for row in differs.any(1).nonzero()[:, 0].tolist():
        at = int(differs[row].nonzero()[0])
        logits = model(
            input_ids=prompt, attention_mask=torch.ones_like(prompt),
            pixel_values=pixels[row : row + 1], decoder_input_ids=theirs[row : row + 1, :at],
        ).logits[0, -1].float()  # fmt: skip
        pair = (float(logits[ours[row, at]]), float(logits[theirs[row, at]]))
        found.append((max(pair), min(pair)))
    return found


def seconds(function: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Return the median time of a call, after one that does not count."""
    times = []
    for number in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def compare(
    model: Any, size: dict[str, Any], count: int, length: int, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Measure both sides at one batch size; return rows."""
    from elf.taggers.decoding import FastDecoder

    device, dtype = model.device, model.dtype
    prompt = make_prompt(size).to(device)
    pixels = make_pixels(size, count).to(device, dtype)
    decoder = FastDecoder(model, prompt, length)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved() if device.type == "cuda" else 0
    begin = time.perf_counter()
    ours = decoder(pixels)
    first = time.perf_counter() - begin
    held = torch.cuda.memory_reserved() - before if device.type == "cuda" else 0
    theirs = generate(model, prompt, pixels, length)
    found = differences(model, prompt, pixels, ours, theirs)
    gaps = sorted((best - other for best, other in found), reverse=True)
    took = seconds(lambda: decoder(pixels), device, options.repeats)
    plain = seconds(lambda: generate(model, prompt, pixels, length), device, options.repeats)
    batch = decoder._batches[count]
    encode = seconds(batch.encode, device, options.repeats)
    encode_plain = seconds(lambda: plain_encoder(model, prompt, pixels), device, options.repeats)

    def decode() -> None:
        batch.state.restart(count, decoder.greedy)
        for position in range(length):
            batch.steps[next(prefix for prefix in batch.steps if prefix > position)]()

    step = seconds(decode, device, options.repeats) / length
    name = f"batch {count}"
    one_token = seconds(lambda: generate(model, prompt, pixels, 1), device, options.repeats)
    step_plain = (plain - one_token) / (length - 1)
    same = 100 * (1 - len(gaps) / count)
    return [
        {"name": f"{name}: captions", "value": count / took, "unit": "captions/s",
         "baseline": count / plain, "ratio": plain / took},
        {"name": f"{name}: encoder", "value": 1e3 * encode, "unit": "ms",
         "baseline": 1e3 * encode_plain, "ratio": encode_plain / encode},
        {"name": f"{name}: a token", "value": 1e3 * step, "unit": "ms",
         "baseline": 1e3 * step_plain, "ratio": step_plain / step},
        {"name": f"{name}: texts with the same tokens", "value": same, "unit": "%",
         "baseline": 100.0, "ratio": same / 100, "gaps": gaps,
         "beyond_ties": sum(not gap <= TIE for gap in gaps),
         "new_tokens": theirs.shape[1] - 1, "distinct_tokens": len(theirs[:, 1:].unique()),
         "distinct_texts": len(theirs.unique(dim=0))},
        {"name": f"{name}: first call (capture)", "value": first, "unit": "s", "baseline": None,
         "ratio": None, "held_mb": held / 2**20},
    ]  # fmt: skip


def about(device: torch.device, size: dict[str, Any], parameters: int) -> dict[str, Any]:
    """Return where and with what the figures were taken."""
    import transformers

    cuda = device.type == "cuda"
    return {
        "date": datetime.date.today().isoformat(),
        "card": torch.cuda.get_device_name() if cuda else None,
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
        "parameters": parameters,
        "size": size,
    }


def show(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print rows, and return them."""
    for row in rows:
        ratio = "" if row["ratio"] is None else f"×{row['ratio']:.2f}"
        more = ""
        if "gaps" in row:
            more = (
                f"  {row['distinct_tokens']} distinct tokens, {row['distinct_texts']} texts of "
                f"{row['new_tokens']}, {row['beyond_ties']} differ beyond {TIE}"
            )
        if "held_mb" in row:
            more = f"  {row['held_mb']:.0f} MB held"
        print(f"{row['name']:<40}{row['value']:9.2f} {row['unit']:<11}{ratio}{more}", flush=True)
    return rows


def main() -> None:
    """Measure, print a table, write rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--small", action="store_true", help="a tiny model on a CPU, in seconds")
    parser.add_argument("--repeats", type=int, default=3, help="calls; their median counts")
    parser.add_argument("--batches", type=int, nargs="+", help="batch sizes; default 1 32 64")
    parser.add_argument("--tokens", type=int, help="new tokens; default 192")
    parser.add_argument("--pictures", type=int, help="that the encoder looks at together")
    options = parser.parse_args()
    if not (options.small or torch.cuda.is_available()):
        parser.error("needs a CUDA device; --small runs a tiny model on a CPU")
    device, dtype = torch.device("cuda:0"), torch.float16
    size, batches, length = LARGE, options.batches or [1, 32, 64], options.tokens or 192
    if options.small:
        device, dtype = torch.device("cpu"), torch.float32
        size, batches, length = SMALL, options.batches or [1, 4], options.tokens or 24
    if options.pictures:
        florence_encoder.PICTURES = options.pictures
    with device:  # some 770 million numbers are drawn
        model = random_model(size).to(dtype)
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        for count in batches:
            rows += show(compare(model, size, count, length, options))
    if options.json:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        where = about(device, size, parameters)
        options.json.write_text(json.dumps({"about": where, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
