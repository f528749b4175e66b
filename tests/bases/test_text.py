"""Text states and added conditions are those of diffusers' pipelines; gradients flow."""

from pathlib import Path

import pytest
import torch

from elf.bases import Base, added_time_ids, encode_text, encode_tokens, open_base, tokenize
from elf.bases.text import count_cut
from elf.errors import ElfError

CAPTIONS = ["wood_elf, portrait", "", "forest " * 100]
CPU = torch.device("cpu")


@pytest.fixture(params=["sd15", "sdxl"])
def base(request: pytest.FixtureRequest, tiny_models: dict[str, Path], tiny_sdxl: Path) -> Base:
    return open_base(str(tiny_models["base"] if request.param == "sd15" else tiny_sdxl))


@pytest.fixture
def sdxl(tiny_sdxl: Path) -> Base:
    return open_base(str(tiny_sdxl))


@pytest.fixture
def sd15(tiny_models: dict[str, Path]) -> Base:
    return open_base(str(tiny_models["base"]))


@torch.no_grad()
def of_pipeline(base: Base, captions: list[str]) -> dict[str, torch.Tensor]:
    """What diffusers' pipeline makes of captions."""
    pipeline = base.pipeline(base.unet(torch.float32))
    if base.family == "sd15":
        return {"text": pipeline.encode_prompt(captions, CPU, 1, False)[0]}
    text, _, pooled, _ = pipeline.encode_prompt(captions, do_classifier_free_guidance=False)
    return {"text": text, "pooled": pooled}


def test_states_are_those_of_the_pipeline(base: Base) -> None:
    states = base.encoder(CPU).encode_captions(CAPTIONS)
    expected = of_pipeline(base, CAPTIONS)
    assert states.keys() == expected.keys()
    for name, state in states.items():
        assert state.dtype == torch.float32
        torch.testing.assert_close(state, expected[name], rtol=0, atol=0)
    assert states["text"].shape[:2] == (3, 77)


def test_the_second_tokenizer_pads_with_its_own_token(sdxl: Base) -> None:
    tokenizers = {name: sdxl.tokenizer(name) for name in sdxl.text_encoder_names}
    tokens = tokenize(tokenizers, [""])
    assert tokens["text_encoder"][0, -1] == tokenizers["text_encoder"].eos_token_id
    assert tokens["text_encoder_2"][0, -1] == 0


def test_tokens_and_states_are_two_halves(base: Base) -> None:
    encoder = base.encoder(CPU)
    tokens = tokenize(encoder.tokenizers, CAPTIONS)
    for ids in tokens.values():
        assert ids.device == CPU
        assert ids.dtype == torch.int64
        assert ids.shape == (3, 77)
    with torch.no_grad():
        states = encode_tokens(base.family, encoder.text_encoders, tokens)
    for name, state in encoder.encode_captions(CAPTIONS).items():
        torch.testing.assert_close(states[name], state, rtol=0, atol=0)


def test_no_state_depends_on_a_look_at_the_tokens(base: Base) -> None:
    """A step with such a look could not be captured; tensors without values would raise."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    encoders = {name: base.text_encoder(name, torch.float32) for name in base.text_encoder_names}
    tokenizers = {name: base.tokenizer(name) for name in base.text_encoder_names}
    tokens = tokenize(tokenizers, CAPTIONS)
    expected = encode_tokens(base.family, encoders, tokens)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = {name: mode.from_tensor(ids) for name, ids in tokens.items()}
        states = encode_tokens(base.family, encoders, fakes)
    assert {name: state.shape for name, state in states.items()} == {
        name: state.shape for name, state in expected.items()
    }


def test_gradients_reach_every_text_encoder(base: Base) -> None:
    encoders = {name: base.text_encoder(name, torch.float32) for name in base.text_encoder_names}
    tokenizers = {name: base.tokenizer(name) for name in base.text_encoder_names}
    states = encode_text(base.family, tokenizers, encoders, ["wood_elf"], CPU)
    sum(state.square().sum() for state in states.values()).backward()
    for encoder in encoders.values():
        first = next(encoder.parameters())
        assert first.grad is not None
        assert first.grad.abs().sum() > 0


def test_states_are_in_the_encoders_type(base: Base) -> None:
    encoders = {name: base.text_encoder(name, torch.bfloat16) for name in base.text_encoder_names}
    tokenizers = {name: base.tokenizer(name) for name in base.text_encoder_names}
    states = encode_text(base.family, tokenizers, encoders, CAPTIONS, CPU)
    assert {state.dtype for state in states.values()} == {torch.bfloat16}


def test_long_captions_are_counted(base: Base) -> None:
    encoder = base.encoder(CPU)
    word = encoder.tokenizers["text_encoder"]("forest").input_ids
    assert len(word) == 3, "one token, a start and an end"
    assert encoder.count_cut(["forest " * 75, "forest " * 76, "", "forest " * 500]) == 2
    assert count_cut(encoder.tokenizers, []) == 0


def test_skipping_layers_ends_earlier_with_the_final_norm(
    sd15: Base, tiny_models: dict[str, Path]
) -> None:
    skipping = open_base(str(tiny_models["base"]), clip_skip=2)
    whole = sd15.text_encoder("text_encoder", torch.float32)
    tokens = tokenize({"text_encoder": sd15.tokenizer("text_encoder")}, CAPTIONS)
    with torch.no_grad():
        hidden = whole(tokens["text_encoder"], output_hidden_states=True).hidden_states
        expected = whole.final_layer_norm(hidden[-2])
    states = skipping.encoder(CPU).encode_captions(CAPTIONS)
    torch.testing.assert_close(states["text"], expected, rtol=0, atol=0)
    plain = sd15.encoder(CPU).encode_captions(CAPTIONS)
    assert (states["text"] - plain["text"]).abs().max() > 0.01
    # what is sampled with is what was trained with
    torch.testing.assert_close(of_pipeline(skipping, CAPTIONS)["text"], expected, rtol=0, atol=0)


def test_skipping_layers_is_part_of_the_text_fingerprint(tiny_models: dict[str, Path]) -> None:
    name = str(tiny_models["base"])
    plain = open_base(name).encoder_fingerprints()
    assert open_base(name, clip_skip=1).encoder_fingerprints() == plain
    skipping = open_base(name, clip_skip=2).encoder_fingerprints()
    assert skipping["vae"] == plain["vae"]
    assert skipping["text"] != plain["text"]


@pytest.mark.parametrize("clip_skip", [0, -1, 4])
def test_more_layers_than_there_are_cannot_be_skipped(
    tiny_models: dict[str, Path], clip_skip: int
) -> None:
    with pytest.raises(ElfError) as error:
        open_base(str(tiny_models["base"]), clip_skip=clip_skip)
    assert str(error.value) == (
        f"clip_skip: {clip_skip} does not fit a text encoder of 3 layers; give 1 (its last layer) "
        "or 2 (the one before), or null"
    )


def test_sdxl_takes_the_last_but_one_layer_alone(tiny_sdxl: Path) -> None:
    assert open_base(str(tiny_sdxl), clip_skip=2).clip_skip is None
    with pytest.raises(ElfError) as error:
        open_base(str(tiny_sdxl), clip_skip=1)
    assert str(error.value) == (
        "clip_skip: 1 is not for Stable Diffusion XL, whose denoiser always takes the last but "
        "one layer; set it to null"
    )


def test_added_conditions_are_in_the_pipelines_order(sdxl: Base) -> None:
    sizes = [((600, 805), (3, 14), (512, 768)), ((2049, 1024), (0, 0), (1024, 1023))]
    original, crop, size = (torch.tensor(column) for column in zip(*sizes, strict=True))
    pipeline = sdxl.pipeline(sdxl.unet(torch.float32))
    expected = [
        pipeline._get_add_time_ids(
            *row, dtype=torch.float32, text_encoder_projection_dim=sdxl_width(pipeline)
        )
        for row in sizes
    ]
    torch.testing.assert_close(added_time_ids(original, crop, size), torch.cat(expected))


def sdxl_width(pipeline: object) -> int:
    return int(pipeline.text_encoder_2.config.projection_dim)  # type: ignore[attr-defined]
