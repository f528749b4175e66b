"""Captions of more than 75 tokens: split at commas, each chunk encoded as if it stood alone."""

from pathlib import Path

import pytest
import torch

from elf.bases import Base, encode_text, encode_tokens, open_base, tokenize
from elf.bases.chunks import split
from elf.bases.text import count_cut
from elf.errors import ElfError
from elf.generation import GenerationConfig, generate

CPU = torch.device("cpu")
COMMA = 0


def ids(count: int, *commas: int) -> list[int]:
    """Return numbers from 1 on, with commas at these places."""
    return [COMMA if place in commas else place + 1 for place in range(count)]


@pytest.mark.parametrize(
    ("tokens", "chunks", "lengths"),
    [
        pytest.param(ids(0), 2, [0, 0], id="nothing"),
        pytest.param(ids(75), 2, [75, 0], id="as much as a chunk holds"),
        pytest.param(ids(76), 2, [75, 1], id="no comma"),
        pytest.param(ids(100, 54), 2, [75, 25], id="no comma among the last 20"),
        pytest.param(ids(100, 55), 2, [56, 44], id="behind a comma among the last 20"),
        pytest.param(ids(100, 60, 70), 2, [71, 29], id="behind the last comma"),
        pytest.param(ids(100, 60, 74), 2, [75, 25], id="the chunk ends with a comma"),
        pytest.param(ids(100, 60, 75), 2, [75, 25], id="the next chunk begins with one"),
        pytest.param(ids(75, 60), 2, [75, 0], id="nothing is to be cut"),
        pytest.param(ids(136, 60), 2, [61, 75], id="the rest just fits"),
        pytest.param(ids(137, 60), 2, [75, 62], id="the rest would not fit"),
        pytest.param(ids(150, 60), 2, [75, 75], id="as much as all chunks hold"),
        pytest.param(ids(151, 60), 2, [75, 75], id="the end is cut off"),
        pytest.param(ids(190, 60, 120), 3, [61, 60, 69], id="every chunk but the last"),
        pytest.param(ids(200, 60, 120), 3, [61, 75, 64], id="only where the rest fits"),
        pytest.param(ids(76, 60), 1, [75], id="a single chunk"),
    ],
)
def test_where_a_caption_is_split(tokens: list[int], chunks: int, lengths: list[int]) -> None:
    found = split(tokens, chunks, COMMA)
    assert [len(each) for each in found] == lengths
    joined = [token for each in found for token in each]
    assert joined == tokens[: 75 * chunks], "nothing that fits is lost"


def test_without_a_token_for_commas_chunks_are_full() -> None:
    assert [len(each) for each in split(ids(100), 2, None)] == [75, 25]


FIRST = "wood, " + ", ".join(["dark forest"] * 24) + ","
"""74 tokens of every base; the tag behind them would be cut in two."""

SECOND = ", ".join(["silver hair"] * 15)
LONG = f"{FIRST} {SECOND}"


@pytest.fixture(params=["sd15", "sdxl"])
def base(request: pytest.FixtureRequest, tiny_models: dict[str, Path], tiny_sdxl: Path) -> Base:
    name = tiny_models["base"] if request.param == "sd15" else tiny_sdxl
    return open_base(str(name), caption_tokens=150)


@pytest.fixture
def tokenizers(base: Base) -> dict[str, object]:
    return {name: base.tokenizer(name) for name in base.text_encoder_names}


def test_chunks_have_the_tokens_of_their_texts_alone(tokenizers: dict[str, object]) -> None:
    together = tokenize(tokenizers, [LONG, "forest", ""], 225)
    alone = tokenize(tokenizers, [FIRST, SECOND, "forest", ""])
    for name, found in together.items():
        first, second, forest, empty = alone[name]
        assert found.dtype == torch.int64 and found.shape == (3, 3 * 77)
        assert torch.equal(found[0], torch.cat([first, second, empty]))
        assert torch.equal(found[1], torch.cat([forest, empty, empty]))
        assert torch.equal(found[2], torch.cat([empty, empty, empty]))


def test_of_75_tokens_nothing_changes(base: Base, tokenizers: dict[str, object]) -> None:
    captions = [LONG, "forest", ""]
    for name, found in tokenize(tokenizers, captions, 75).items():
        assert torch.equal(found, tokenize(tokenizers, captions)[name])
        assert found.shape == (3, 77)
    plain = open_base(base.name)
    assert plain.caption_tokens == 75
    as_before = open_base(base.name, caption_tokens=75).encoder_fingerprints()
    assert plain.encoder_fingerprints() == as_before
    pipeline = plain.pipeline(plain.unet(torch.float32))
    encode = plain.prompt_encoder(pipeline)
    config = GenerationConfig(steps=2, negative_prompt="red", width=64, height=64)
    by_itself, encoded = (
        generate(pipeline, captions, [3, 4, 5], config, CPU, "np", encode=each)
        for each in (None, encode)
    )
    for one, other in zip(by_itself, encoded, strict=True):
        torch.testing.assert_close(torch.from_numpy(one), torch.from_numpy(other))


def test_each_chunk_is_encoded_as_if_it_stood_alone(base: Base) -> None:
    states = base.encoder(CPU).encode_captions([LONG, "forest"])
    alone = open_base(base.name).encoder(CPU).encode_captions([FIRST, SECOND, "forest", ""])
    assert states["text"].shape == (2, 2 * 77, alone["text"].shape[-1])
    first, second, forest, empty = alone["text"]
    # in batches of another size sums may come in another order
    torch.testing.assert_close(states["text"][0], torch.cat([first, second]))
    torch.testing.assert_close(states["text"][1], torch.cat([forest, empty]))
    assert states.keys() == alone.keys()
    if "pooled" in states:
        torch.testing.assert_close(states["pooled"], alone["pooled"][[0, 2]])


def test_the_states_tell_what_stands_behind_the_first_chunk(base: Base) -> None:
    encoder = base.encoder(CPU)
    text = encoder.encode_captions([LONG, LONG.replace("silver hair", "red cloak")])["text"]
    torch.testing.assert_close(text[0, :77], text[1, :77])
    assert (text[0, 77:] - text[1, 77:]).abs().max() > 0.01


def test_no_state_depends_on_a_look_at_the_tokens_of_chunks(
    base: Base, tokenizers: dict[str, object]
) -> None:
    """A step with such a look could not be captured; tensors without values would raise."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    encoders = {name: base.text_encoder(name, torch.float32) for name in base.text_encoder_names}
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        tokens = tokenize(tokenizers, [LONG, ""], 225)
        fakes = {name: mode.from_tensor(ids) for name, ids in tokens.items()}
        states = encode_tokens(base.family, encoders, fakes)
    assert states["text"].shape[:2] == (2, 3 * 77)
    assert all(len(state) == 2 for state in states.values())


def test_gradients_come_from_every_chunk(base: Base, tokenizers: dict[str, object]) -> None:
    encoders = {name: base.text_encoder(name, torch.float32) for name in base.text_encoder_names}
    states = encode_text(base.family, tokenizers, encoders, [LONG], CPU, 150)
    states["text"][:, 77:].square().sum().backward()
    for name, encoder in encoders.items():
        only_behind = tokenizers[name].convert_tokens_to_ids("silver</w>")  # type: ignore[attr-defined]
        assert encoder.get_input_embeddings().weight.grad[only_behind].abs().sum() > 0


def test_what_is_cut_is_counted_at_the_length_in_force(
    base: Base, tokenizers: dict[str, object]
) -> None:
    captions = ["forest " * count for count in (75, 76, 150, 151, 225, 226)]
    assert [count_cut(tokenizers, captions, limit) for limit in (75, 150, 225)] == [5, 3, 1]
    assert base.encoder(CPU).count_cut(captions) == 3


def test_the_length_is_part_of_the_text_fingerprint(base: Base) -> None:
    plain, long = open_base(base.name).encoder_fingerprints(), base.encoder_fingerprints()
    assert long["vae"] == plain["vae"]
    longest = open_base(base.name, caption_tokens=225).encoder_fingerprints()
    assert len({plain["text"], long["text"], longest["text"]}) == 3


@pytest.mark.parametrize("tokens", [0, 77, 100, 300])
def test_other_lengths_are_refused(tiny_models: dict[str, Path], tokens: int) -> None:
    with pytest.raises(ElfError) as error:
        open_base(str(tiny_models["base"]), caption_tokens=tokens)
    assert str(error.value) == (
        f"caption_tokens: captions are read in 1 to 3 chunks of 75 tokens, not in {tokens} tokens; "
        "give 75, 150 or 225"
    )


def test_pictures_are_sampled_with_the_states_of_training(base: Base) -> None:
    pipeline = base.pipeline(base.unet(torch.float32))
    options = {"num_inference_steps": 2, "guidance_scale": 6.0, "width": 64, "height": 64}
    config = GenerationConfig(steps=2, guidance=6.0, negative_prompt="red", width=64, height=64)

    def sampled(prompt: str, **more: object) -> torch.Tensor:
        found = generate(pipeline, [prompt], [3], config, CPU, "np", **more)  # type: ignore[arg-type]
        return torch.from_numpy(found[0])

    encode = base.prompt_encoder(pipeline)
    picture = sampled(LONG, encode=encode)
    states = base.encoder(CPU).encode_captions([LONG, "red"])
    given = {"prompt_embeds": states["text"][:1], "negative_prompt_embeds": states["text"][1:]}
    if "pooled" in states:
        given["pooled_prompt_embeds"] = states["pooled"][:1]
        given["negative_pooled_prompt_embeds"] = states["pooled"][1:]
    random = torch.Generator().manual_seed(3)
    (expected,) = pipeline(**given, **options, generator=random, output_type="np").images
    torch.testing.assert_close(picture, torch.from_numpy(expected), rtol=0, atol=1e-4)

    other = f"{FIRST} silver hair, " + ", ".join(["red cloak"] * 14)
    assert (sampled(other, encode=encode) - picture).abs().max() > 1e-3
    assert torch.equal(sampled(LONG), sampled(other)), "the pipeline by itself cuts both"
