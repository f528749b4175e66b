"""Fast captions on a CUDA device, against `generate()`; run with `pytest -m gpu`."""

import importlib.util
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from elf.quickstart import draw_pictures
from elf.taggers import FlorenceCaptioner, FlorenceConfig
from elf.taggers.decoding import FastDecoder, is_tie
from elf.taggers.florence import florence_preprocess
from elf.taggers.florence_encoder import Encoder
from elf.taggers.florence_kernel_step import KernelStep
from elf.taggers.florence_step import TokenStep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

BENCHMARK = runpy.run_path("benchmarks/captions.py")
MIDDLE = {
    "side": 192, "embed_dim": (64, 128, 256, 512), "depths": (1, 1, 2, 1),
    "num_heads": (2, 4, 8, 16), "window_size": 12, "width": 256, "layers": 6, "heads": 4,
    "vocabulary": 5003, "prompt": 8,
}  # fmt: skip
CAPTIONER = Path("models/tiny/captioner")
BATCHES = [1, 8, 32, 64]
LENGTH = 100  # in two prefixes of the cache
LIMITS = {torch.float32: 1e-4, torch.float16: 1e-2}
"""What two logits are apart at most where the two sides take different tokens."""


@pytest.fixture(autouse=True)
def _exact_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="module", params=LIMITS, ids=["float32", "float16"])
def model(request: pytest.FixtureRequest) -> Any:
    return BENCHMARK["random_model"](MIDDLE).to("cuda", request.param)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """64 pictures of the kind that the tiny captioner learnt from, as it takes them."""
    folder = tmp_path_factory.mktemp("pictures")
    draw_pictures(folder, 64)
    preprocess = florence_preprocess(CAPTIONER)
    rows = [preprocess(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.png"))]
    return np.stack(rows)


def captioner(decoding: str, dtype: str = "float32", **options: Any) -> FlorenceCaptioner:
    config = FlorenceConfig(str(CAPTIONER), decoding=decoding, dtype=dtype, **options)  # type: ignore[arg-type]
    return FlorenceCaptioner(config, CAPTIONER, "cuda")


def pictures(model: Any, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    prompt = BENCHMARK["make_prompt"](MIDDLE).to("cuda")
    return prompt, BENCHMARK["make_pixels"](MIDDLE, count).to("cuda", model.dtype)


@torch.inference_mode()
def test_the_encoder_equals_that_of_transformers(model: Any) -> None:
    prompt, pixels = pictures(model, 18)
    ours = Encoder(model, prompt)(pixels)
    theirs = BENCHMARK["plain_encoder"](model, prompt, pixels)
    limit = 1e-4 if model.dtype == torch.float32 else 5e-2
    torch.testing.assert_close(ours, theirs, atol=limit, rtol=0)


@pytest.mark.parametrize("count", BATCHES)
@torch.inference_mode()
def test_tokens_of_random_weights_equal_those_of_generate(model: Any, count: int) -> None:
    prompt, pixels = pictures(model, count)
    decoder = FastDecoder(model, prompt, LENGTH)
    theirs = BENCHMARK["generate"](model, prompt, pixels, LENGTH)
    assert len(theirs.unique()) > LENGTH // 2
    for _ in range(2):  # the second time, the graphs are there
        ours = decoder(pixels)
        assert ours.shape == theirs.shape == (count, 1 + LENGTH)
        pairs = BENCHMARK["differences"](model, prompt, pixels, ours, theirs)
        gaps = [best - other for best, other in pairs]
        assert not [gap for gap in gaps if not gap <= LIMITS[model.dtype]]
        assert len(gaps) <= (1 if model.dtype == torch.float32 else max(1, count // 4))


@torch.inference_mode()
def test_batches_that_are_padded(model: Any) -> None:
    prompt, pixels = pictures(model, 24)
    decoder = FastDecoder(model, prompt, LENGTH)
    whole = decoder(pixels)
    for count in (13, 24, 3, 1, 12):
        ours = decoder(pixels[:count])
        pairs = BENCHMARK["differences"](model, prompt, pixels[:count], ours, whole[:count])
        assert not [pair for pair in pairs if not pair[0] - pair[1] <= LIMITS[model.dtype]]
    assert sorted(decoder._batches) == [1, 3, 24]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("count", BATCHES)
def test_tokens_of_trained_weights_equal_those_of_generate(
    drawn: np.ndarray, count: int, dtype: str
) -> None:
    """Texts of different lengths; a trained model's logits are large, so ties are as wide."""
    plain, fast = captioner("plain", dtype), captioner("auto", dtype)
    pixels = drawn[:count]
    theirs = plain._generate(pixels)
    assert fast._fast is not None
    inputs = fast.normalize(pixels)
    ours = fast._fast(inputs)
    if dtype == "float32":
        assert torch.equal(ours, theirs)
        assert fast.caption(pixels) == plain.caption(pixels)
        return
    with torch.inference_mode():
        pairs = BENCHMARK["differences"](plain.model, plain._prompt, inputs, ours, theirs)
    for pair in pairs:
        assert is_tie(*torch.tensor(pair), torch.float16)
    assert len(pairs) <= max(1, count // 4)


def test_captions_do_not_depend_on_the_batch(drawn: np.ndarray) -> None:
    fast = captioner("fast")
    whole = fast.caption(drawn)
    assert len(set(whole)) > 8
    for size in (1, 8, 24):
        texts = [fast.caption(drawn[at : at + size]) for at in range(0, 48, size)]
        assert [text for part in texts for text in part] == whole[:48]


@pytest.mark.parametrize("moment", ["before", "during"])
def test_without_enough_memory_for_a_batch_it_is_halved(
    drawn: np.ndarray, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The allocator itself says so, before the capture and within it."""

    def exhaust(batch: int) -> None:
        if batch > 8:
            torch.empty(1 << 46, dtype=torch.uint8, device="cuda")

    state, step = TokenStep.state, KernelStep.__call__
    if moment == "before":
        monkeypatch.setattr(
            TokenStep, "state", lambda self, *args: (exhaust(args[0]), state(self, *args))[1]
        )
    else:

        def call(self: TokenStep, texts: Any, prefix: int) -> None:
            if torch.cuda.is_current_stream_capturing():
                exhaust(len(texts.tokens))
            step(self, texts, prefix)

        monkeypatch.setattr(KernelStep, "__call__", call)
    fast = captioner("fast")
    expected = captioner("plain").caption(drawn[:32])
    with pytest.warns(UserWarning) as caught:
        assert fast.caption(drawn[:32]) == expected
    messages = [str(warning.message) for warning in caught]
    assert messages[0] == "out of memory with 32 captions at once; going on with 16"
    assert messages[1] == "out of memory with 16 captions at once; going on with 8"
    assert len(messages) == 2
    assert fast.caption(drawn[:32]) == expected  # from graphs that were captured afterwards


def test_a_capture_that_fails_leaves_it_to_generate(
    drawn: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = KernelStep.__call__

    def call(self: TokenStep, texts: Any, prefix: int) -> None:
        texts.position.item()  # waits for the device, which no capture may
        step(self, texts, prefix)

    fast, plain = captioner("fast"), captioner("plain")
    expected = plain.caption(drawn[:8])
    before = torch.cuda.current_stream()
    with monkeypatch.context() as patch:
        patch.setattr(KernelStep, "__call__", call)
        with pytest.warns(UserWarning, match=r"decoded by generate\(\), several times slower"):
            assert fast.caption(drawn[:8]) == expected
    assert torch.cuda.current_stream() == before
    assert fast.caption(drawn[:8]) == expected
    assert torch.rand(2, device="cuda").isfinite().all()  # nothing is left half captured


def test_the_kernels_are_in_use_and_captions_without_them_are_the_same(
    drawn: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    fast = captioner("fast")
    with_kernels = fast.caption(drawn[:8])
    assert fast._fast is not None
    assert isinstance(fast._fast._step, KernelStep)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    plain = captioner("fast")
    assert plain._fast is not None
    assert type(plain._fast._step) is TokenStep
    assert plain.caption(drawn[:8]) == with_kernels
