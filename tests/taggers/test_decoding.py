import copy
import runpy
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import Florence2ForConditionalGeneration, GenerationConfig

from elf.taggers import decoding
from elf.taggers.decoding import FastDecoder, MismatchError, batch_size, is_tie
from elf.taggers.florence_encoder import Encoder
from elf.taggers.florence_step import Greedy, UnsupportedError

BENCHMARK = runpy.run_path("benchmarks/captions.py")
SMALL = BENCHMARK["SMALL"]  # its windows need padding
DEEP = SMALL | {
    "side": 128, "embed_dim": (16, 24, 32, 48), "num_heads": (2, 2, 4, 6), "window_size": 4,
    "width": 40, "layers": 5, "heads": 5, "vocabulary": 520, "prompt": 9,
}  # fmt: skip
SIZES = {"small": SMALL, "deep": DEEP}


@pytest.fixture(scope="module", params=["small", "deep", "tiny captioner"])
def captioner(request):
    """A model, a prompt and eight pictures."""
    if request.param in SIZES:
        size = SIZES[request.param]
        model = BENCHMARK["random_model"](size, seed=1)
        return model, BENCHMARK["make_prompt"](size), BENCHMARK["make_pixels"](size, 8)
    model = Florence2ForConditionalGeneration.from_pretrained("models/tiny/captioner").eval()
    places = [model.config.image_token_id] * 65
    prompt = torch.tensor([[*places, 0, 20, 21, 2]])
    return model, prompt, BENCHMARK["make_pixels"]({"side": 64}, 8)


@pytest.fixture
def settings(captioner, monkeypatch):
    """The model's generation config, for this test alone."""
    model, _, _ = captioner
    config = GenerationConfig.from_dict(model.generation_config.to_dict())
    monkeypatch.setattr(model, "generation_config", config)
    return config


@pytest.fixture(scope="module")
def small():
    model = BENCHMARK["random_model"](SMALL, seed=1)
    return model, BENCHMARK["make_prompt"](SMALL), BENCHMARK["make_pixels"](SMALL, 8)


def plain(captioner, count, length):
    model, prompt, pixels = captioner
    return BENCHMARK["generate"](model, prompt, pixels[:count], length)


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("length", [1, 21, 70, 130])  # in one, two and three prefixes
def test_tokens_equal_those_of_generate(captioner, count, length):
    model, prompt, pixels = captioner
    tokens = FastDecoder(model, prompt, length)(pixels[:count])
    expected = plain(captioner, count, length)
    assert torch.equal(tokens, expected)
    assert length < 20 or len(expected.unique()) > 15  # or equality would not say much


def test_rows_that_end_at_different_lengths(captioner, settings):
    model, prompt, pixels = captioner
    texts = plain(captioner, 8, 70)
    # Words of which some texts lack one: each text ends at the first that it has.
    rare = [int(token) for token in texts.unique() if not (texts == token).any(1).all()]
    settings.eos_token_id = [2, *rare[: len(rare) // 2]]
    expected = plain(captioner, 8, 70)
    lengths = {int((row != settings.pad_token_id).sum()) for row in expected}
    assert len(lengths) > 1
    for count in (8, 5, 1):
        tokens = FastDecoder(model, prompt, 70)(pixels[:count])
        assert torch.equal(tokens, plain(captioner, count, 70))


def test_the_end_at_once(captioner, settings):
    model, prompt, pixels = captioner
    settings.eos_token_id = int(plain(captioner, 1, 1)[0, 1])
    tokens = FastDecoder(model, prompt, 12)(pixels[:1])
    assert tokens.tolist() == plain(captioner, 1, 12).tolist()
    assert tokens.shape == (1, 2)


@pytest.mark.parametrize("length", [1, 9])
def test_forced_first_and_last_tokens(captioner, settings, length):
    model, prompt, pixels = captioner
    settings.forced_bos_token_id, settings.forced_eos_token_id = 7, 2
    tokens = FastDecoder(model, prompt, length)(pixels[:3])
    assert torch.equal(tokens, plain(captioner, 3, length))
    assert set(tokens[:, 1].tolist()) == ({7} if length > 1 else {2})


def test_batches_are_padded_to_a_few_sizes(captioner):
    model, prompt, pixels = captioner
    decoder = FastDecoder(model, prompt, 30)
    for count in (6, 5, 3, 2, 1, 8, 7, 6):
        assert torch.equal(decoder(pixels[:count]), plain(captioner, count, 30))
    assert sorted(decoder._batches) == [2, 8]


@pytest.mark.parametrize(
    ("count", "sizes", "expected"),
    [(24, [], 24), (1, [], 1), (7, [], 7), (23, [24], 24), (12, [24], 24), (11, [24], 12),
     (1, [24], 1), (24, [1], 24), (26, [24], 28), (3, [4, 6], 4), (5, [16], 5), (57, [8], 64)],
)  # fmt: skip
def test_the_size_of_a_batch(count, sizes, expected):
    assert batch_size(count, sizes) == expected


def test_whatever_batches_come_few_sizes_are_held(small, monkeypatch):
    model, prompt, _ = small
    decoder = FastDecoder(model, prompt, 4)
    made = []
    monkeypatch.setattr(decoder, "_prepare", lambda size, _: made.append(size))
    for count in [*range(1, 65), *range(64, 0, -1), 40, 3, 64]:
        with pytest.raises(AttributeError):  # of what was not prepared
            decoder(torch.zeros(count, 1))
        assert sum(decoder._batches) < 2 * 64
    assert len(made) < 30


def test_what_a_batch_left_behind_does_not_reach_the_next(captioner):
    model, prompt, pixels = captioner
    decoder = FastDecoder(model, prompt, 20)
    expected = decoder(pixels[:3])
    decoder(torch.full_like(pixels[:3], torch.nan))
    assert torch.equal(decoder(pixels[:3]), expected)


def test_steps_stop_soon_after_the_last_text(small, monkeypatch):
    model, prompt, pixels = small
    end = int(plain(small, 1, 12)[0, 6])
    monkeypatch.setattr(model.generation_config, "eos_token_id", end)
    decoder = FastDecoder(model, prompt, 100)
    expected = decoder(pixels[:1])
    assert expected.shape[1] <= 7
    decoder(pixels[:1])
    steps = int(decoder._batches[1].state.position)
    assert steps < expected.shape[1] + 2 * decoding.CHECK


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_the_encoder_equals_that_of_transformers(size):
    model = BENCHMARK["random_model"](size)
    prompt, pixels = BENCHMARK["make_prompt"](size), BENCHMARK["make_pixels"](size, 18)
    with torch.inference_mode():  # 18 pictures are more than are looked at together
        ours = Encoder(model, prompt)(pixels)
        theirs = BENCHMARK["plain_encoder"](model, prompt, pixels)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_a_half_precision_model_gives_the_same_but_for_ties(small):
    model, prompt, pixels = small
    model = BENCHMARK["random_model"](SMALL, seed=1).to(torch.bfloat16)
    pixels = pixels.to(torch.bfloat16)
    tokens = FastDecoder(model, prompt, 40)(pixels)
    expected = BENCHMARK["generate"](model, prompt, pixels, 40)
    with torch.inference_mode():
        pairs = BENCHMARK["differences"](model, prompt, pixels, tokens, expected)
    for pair in pairs:
        assert is_tie(*torch.tensor(pair), torch.bfloat16)


def test_a_tie():
    best = torch.tensor([1.0, 1.0, 20.0, 20.0, torch.nan])
    chosen = torch.tensor([0.995, 0.98, 19.9, 19.5, 1.0])
    assert is_tie(best, chosen, torch.float16).tolist() == [True, False, True, False, False]
    assert is_tie(best, chosen, torch.float32).tolist() == [True, False, False, False, False]


def test_tokens_that_are_not_the_models_are_noticed(captioner):
    model, prompt, pixels = captioner
    decoder = FastDecoder(model, prompt, 20)
    decoder._step._positions = decoder._step._positions.roll(5, 0)
    with pytest.raises(MismatchError, match=r"^token \d+ of picture 1 of 2 is .* below the best"):
        decoder(pixels[:4])


def test_the_comparison_leaves_out_what_was_forced_and_what_follows_the_end(small, monkeypatch):
    model, prompt, pixels = small
    config = model.generation_config
    monkeypatch.setattr(config, "forced_bos_token_id", 7)
    end = int(plain(small, 1, 3)[0, 3])
    monkeypatch.setattr(config, "eos_token_id", end)
    decoder = FastDecoder(model, prompt, 9)
    tokens = decoder(pixels[:1])
    assert tokens[0, 1] == 7
    assert tokens[0, -1] == end
    longer = torch.cat([tokens, tokens.new_tensor([[1, 1, 1]])], 1)
    with torch.inference_mode():
        decoder._compare(pixels[:1], longer)
        for unforced, ends, wrong in (([True] * 9, [end], 1), (decoder._free, [-1], "[456]")):
            monkeypatch.setattr(decoder, "_free", torch.as_tensor(unforced))
            monkeypatch.setattr(decoder, "_ends", torch.tensor(ends))
            with pytest.raises(MismatchError, match=f"token {wrong} of picture 1 of 1 is"):
                decoder._compare(pixels[:1], longer)
            monkeypatch.undo()


@pytest.mark.parametrize(
    ("name", "value"),
    [("repetition_penalty", 1.2), ("suppress_tokens", [5]), ("min_length", 4)],
)
def test_settings_that_only_generate_knows(small, monkeypatch, name, value):
    model, prompt, _ = small
    monkeypatch.setattr(model.generation_config, name, value)
    message = rf"^its generation config has {name}={value!r}$".replace("[", r"\[")
    with pytest.raises(UnsupportedError, match=message):
        FastDecoder(model, prompt, 8)


def test_settings_that_are_overridden_or_change_nothing():
    config = GenerationConfig(
        num_beams=3, no_repeat_ngram_size=3, early_stopping=True, repetition_penalty=1.0,
        bos_token_id=0, eos_token_id=2, forced_bos_token_id=0, forced_eos_token_id=2,
    )  # fmt: skip
    assert Greedy.of(config, 9) == Greedy(0, (2,), 2, 0, 2, 9)
    assert Greedy.of(config, 3).forced() == [0, -1, 2]


@pytest.mark.parametrize("tokens", [{"bos_token_id": 0}, {"eos_token_id": 2}])
def test_a_config_without_start_or_pad(tokens):
    with pytest.raises(UnsupportedError, match=r"^its generation config has no start token, or no"):
        Greedy.of(GenerationConfig(**tokens), 9)


def test_models_of_another_kind(small):
    model, prompt, _ = small
    with pytest.raises(UnsupportedError, match=r"^its decoder has no 1025 positions$"):
        FastDecoder(model, prompt, 1025)
    other = copy.deepcopy(model)
    other.model.language_model.decoder.layers[1].self_attn.k_proj = torch.nn.Identity()
    with pytest.raises(UnsupportedError, match=r"^its layers are of another kind \('Identity"):
        FastDecoder(other, prompt, 8)
    kinds = SimpleNamespace(
        text_config=SimpleNamespace(model_type="mbart"), vision_config=model.config.vision_config
    )
    other = SimpleNamespace(config=kinds)
    with pytest.raises(UnsupportedError, match=r"^it is made of mbart and florence_vision$"):
        FastDecoder(other, prompt, 8)


def test_the_benchmark_runs(tmp_path, monkeypatch, capsys):
    path = tmp_path / "rows.json"
    arguments = ["--small", "--batches", "2", "--tokens", "8", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["captions.py", *arguments, "--json", str(path)])
    runpy.run_path("benchmarks/captions.py", run_name="__main__")
    assert "batch 2: texts with the same tokens        100.00 %" in capsys.readouterr().out
    assert path.exists()
