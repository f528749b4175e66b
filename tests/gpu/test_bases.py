"""Bases on a CUDA device: half precision, captured text encoders; run with `pytest -m gpu`."""

from pathlib import Path

import pytest
import torch

from elf.bases import Base, encode_tokens, open_base, tokenize
from elf.generation import GenerationConfig, generate
from elf.stepping.capture import Recorder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(params=["sd15", "sdxl"])
def base(request: pytest.FixtureRequest, tiny_models: dict[str, Path], tiny_sdxl: Path) -> Base:
    return open_base(str(tiny_models["base"] if request.param == "sd15" else tiny_sdxl))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_samples_with_the_vae_in_float32(base: Base, dtype: torch.dtype) -> None:
    device = torch.device("cuda")
    given = {"text_encoder": base.text_encoder("text_encoder", dtype).to(device)}
    pipeline = base.pipeline(base.unet(dtype).to(device), given, dtype)
    settings = GenerationConfig(steps=4, width=64, height=64, batch_size=2)
    with torch.autocast("cuda", dtype):  # as within a test step of Lightning's
        pictures = generate(pipeline, ["wood_elf", "forest"], [0, 1], settings, device, "np")
    assert all(picture.std() > 0.01 for picture in pictures)
    assert pipeline.vae.dtype == torch.float32
    homes = {name: getattr(pipeline, name).device.type for name in base.text_encoder_names}
    assert homes.pop("text_encoder") == "cuda", "what was there stays there"
    assert set(homes.values()) | {pipeline.vae.device.type} == {"cpu"}


@pytest.mark.parametrize("length", [75, 225])
def test_text_encoders_can_be_captured(base: Base, length: int) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    encoders = {
        name: base.text_encoder(name, torch.float32).to(device).requires_grad_(False)
        for name in base.text_encoder_names
    }
    tokenizers = {name: base.tokenizer(name) for name in base.text_encoder_names}

    def tokens(caption: str) -> dict[str, torch.Tensor]:
        found = tokenize(tokenizers, [caption, ""], length)
        return {name: ids.to(device) for name, ids in found.items()}

    static = tokens("wood_elf")
    states: dict[str, torch.Tensor] = {}
    replay = Recorder(device)(lambda: states.update(encode_tokens(base.family, encoders, static)))
    for caption in ("forest", "a green cloak, " * 25):
        for name, ids in tokens(caption).items():
            static[name].copy_(ids)
        replay()
        expected = encode_tokens(base.family, encoders, tokens(caption))
        for name, state in expected.items():
            torch.testing.assert_close(states[name], state, rtol=1e-4, atol=1e-5)
