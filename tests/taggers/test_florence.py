import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from elf.errors import ElfError
from elf.taggers import FlorenceCaptioner, FlorenceConfig, FlorencePreprocess
from elf.taggers.decoding import FastDecoder
from elf.taggers.florence import caption_each, florence_folder, florence_preprocess


def pictures(count, size=(50, 90), seed=0):
    rng = np.random.default_rng(seed)
    return [
        Image.fromarray(rng.integers(0, 256, (size[0] + number, size[1], 3), dtype=np.uint8))
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def captioner(tiny_models):
    config = FlorenceConfig(str(tiny_models["captioner"]), max_new_tokens=12)
    return FlorenceCaptioner(config, tiny_models["captioner"])


@pytest.fixture
def fast(tiny_models):
    """A captioner that decodes by the own loop, on a CPU."""
    config = FlorenceConfig(str(tiny_models["captioner"]), max_new_tokens=12, decoding="fast")
    return FlorenceCaptioner(config, tiny_models["captioner"])


def batch(captioner, images, tiny_models):
    preprocess = florence_preprocess(tiny_models["captioner"])
    return np.stack([preprocess(image) for image in images])


def test_pixels_equal_those_of_transformers(captioner, tiny_models):
    from transformers import CLIPImageProcessorPil

    images = pictures(3)
    processor = CLIPImageProcessorPil.from_pretrained(tiny_models["captioner"])
    expected = processor(images, return_tensors="pt")["pixel_values"]
    ours = captioner.normalize(batch(captioner, images, tiny_models))
    torch.testing.assert_close(ours, expected, atol=2e-6, rtol=0)


def test_captions_equal_those_of_the_processor_and_generate(captioner, tiny_models):
    images = pictures(2)
    pixels = batch(captioner, images, tiny_models)
    inputs = captioner._processor(
        text=["<MORE_DETAILED_CAPTION>"] * 2, images=list(pixels), return_tensors="pt"
    )
    tokens = captioner.model.generate(
        **inputs, max_new_tokens=12, num_beams=1, no_repeat_ngram_size=0, do_sample=False
    )
    texts = captioner._processor.batch_decode(tokens, skip_special_tokens=True)
    assert captioner.caption(pixels) == [" ".join(text.split()) for text in texts]
    assert all(captioner.caption(pixels))


def test_captions_do_not_depend_on_the_batch(captioner, tiny_models):
    pixels = batch(captioner, pictures(8), tiny_models)
    whole = captioner.caption(pixels)
    for size in (1, 3):
        parts = [captioner.caption(pixels[at : at + size]) for at in range(0, 8, size)]
        assert [text for part in parts for text in part] == whole


def test_the_stored_generation_config_is_overridden(captioner, tiny_models, monkeypatch):
    pixels = batch(captioner, pictures(1), tiny_models)
    expected = captioner.caption(pixels)
    stored = captioner.model.generation_config
    for key, value in {"num_beams": 3, "no_repeat_ngram_size": 3, "early_stopping": True}.items():
        monkeypatch.setattr(stored, key, value)
    assert captioner.caption(pixels) == expected


def test_special_tokens_alone_come_out_as_empty(captioner, tiny_models, monkeypatch):
    tokenizer = captioner._processor.tokenizer
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    tokens = torch.tensor([[end, *[start] * 9, end]])
    monkeypatch.setattr(captioner.model, "generate", lambda **_: tokens)
    assert captioner.caption(batch(captioner, pictures(1), tiny_models)) == [""]


def test_at_most_so_many_new_tokens(captioner, tiny_models, monkeypatch):
    seen = {}
    real = captioner.model.generate

    def generate(**options):
        seen["tokens"] = real(**options)
        return seen["tokens"]

    monkeypatch.setattr(captioner.model, "generate", generate)
    captioner.caption(batch(captioner, pictures(1), tiny_models))
    assert seen["tokens"].shape[1] <= 1 + 12  # the start token and what is new


def test_fast_captions_equal_plain_ones(captioner, fast, tiny_models, monkeypatch):
    pixels = batch(captioner, pictures(5), tiny_models)
    expected = captioner.caption(pixels)
    monkeypatch.setattr(fast.model, "generate", None)
    assert fast.caption(pixels) == expected
    assert fast.caption(pixels[:2]) == expected[:2]


def test_a_cpu_decodes_plainly_unless_it_is_told_to(captioner, fast):
    assert captioner.config.decoding == "auto"
    assert captioner._fast is None
    assert fast._fast is not None


def test_out_of_memory_halves_the_batch(captioner, fast, tiny_models, monkeypatch):
    real = FastDecoder.__call__
    seen = []

    def decode(self, pixels):
        seen.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, pixels)

    monkeypatch.setattr(FastDecoder, "__call__", decode)
    pixels = batch(captioner, pictures(7), tiny_models)
    with pytest.warns(UserWarning) as caught:
        assert fast.caption(pixels) == captioner.caption(pixels)
    assert [str(warning.message) for warning in caught] == [
        "out of memory with 7 captions at once; going on with 3",
        "out of memory with 3 captions at once; going on with 1",
    ]
    assert seen == [7, 3, *[1] * 7]
    assert fast.caption(pixels) == captioner.caption(pixels)  # without a word


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of\nmemory"), "CUDA out of memory"),
        (RuntimeError("operation not permitted when stream is capturing"), "operation not perm"),
    ],
)
def test_where_nothing_can_be_captured_generate_decodes(
    captioner, fast, tiny_models, monkeypatch, error, reason
):
    def fail(*_):
        raise error

    monkeypatch.setattr(FastDecoder, "_program", fail)
    pixels = batch(captioner, pictures(1), tiny_models)
    with pytest.warns(UserWarning, match=rf"generate\(\), several times slower: {reason}"):
        assert fast.caption(pixels) == captioner.caption(pixels)
    assert fast.caption(pixels) == captioner.caption(pixels)  # without a word


def test_wrong_tokens_are_replaced_by_those_of_generate(captioner, fast, tiny_models):
    fast._fast._step._positions = fast._fast._step._positions.roll(3, 0)
    pixels = batch(captioner, pictures(3), tiny_models)
    with pytest.warns(UserWarning, match=r"generate\(\), several times slower: token \d+ of pict"):
        outputs = caption_each(fast, pixels)
    assert [output.text for output in outputs] == captioner.caption(pixels)


def test_an_unknown_setting_leaves_it_to_generate(tiny_models, tmp_path):
    for path in tiny_models["captioner"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    (tmp_path / "generation_config.json").write_text(
        json.dumps(settings | {"repetition_penalty": 1.5})
    )
    config = FlorenceConfig(str(tmp_path), max_new_tokens=12, decoding="fast")
    with pytest.warns(UserWarning, match=r"slower: its generation config has repetition_penalty="):
        captioner = FlorenceCaptioner(config, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert captioner.caption(batch(captioner, pictures(1), tiny_models))[0]


def test_float32_on_a_cpu_and_by_choice(captioner, tiny_models):
    assert captioner.dtype == "float32"
    config = FlorenceConfig(str(tiny_models["captioner"]), dtype="bfloat16")
    other = FlorenceCaptioner(config, tiny_models["captioner"])
    assert other.model.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["processor_config.json", "preprocessor_config.json"])
def test_the_preprocessing_is_read_from_either_file(tmp_path, name):
    settings = {"size": {"height": 768, "width": 512}, "resample": 2}
    nested = {"image_processor": settings} if name.startswith("proc") else settings
    (tmp_path / name).write_text(json.dumps(nested))
    assert florence_preprocess(tmp_path) == FlorencePreprocess(768, 512, 2)


@pytest.mark.parametrize("text", ["", "{}", '{"size": {"shortest_edge": 4}}', '{"size": 1}'])
def test_a_folder_without_a_size_is_one_line(tmp_path, text):
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(ElfError, match=r"captioner \(model.florence.model\): .* with a size"):
        florence_preprocess(tmp_path)


@pytest.mark.fault(15)
def test_pickled_weights_are_refused(tmp_path):
    for name in ("config.json", "pytorch_model.bin"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ElfError, match=r"has no \*.safetensors; is it the right folder"):
        florence_folder(FlorenceConfig(str(tmp_path)))


def test_damaged_weights_are_one_line(tmp_path, tiny_models):
    for path in tiny_models["captioner"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"nonsense" * 10)
    with pytest.raises(ElfError, match=r"captioner \(model.florence.model\): .* could not be load"):
        FlorenceCaptioner(FlorenceConfig(str(tmp_path)), tmp_path)
