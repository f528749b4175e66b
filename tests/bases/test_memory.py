"""Where memory is short pictures are decoded in strips, and encoded fewer at a time: the same."""

from pathlib import Path

import pytest
import torch

from elf.bases import open_base, strips
from elf.bases import vae as vaes
from elf.bases.configs import CONFIGS
from elf.bases.strips import decode_in_strips
from elf.errors import ElfError
from elf.planning.tracing import Pretence, watch

SMALL = {**CONFIGS["sdxl"]["vae"], "block_out_channels": [32, 32, 64, 64]}


def decoder_of(config: dict[str, object]) -> torch.nn.Module:
    torch.manual_seed(0)
    vae: torch.nn.Module = vaes.Float32VAE.from_config(config).eval()
    for parameter in vae.parameters():
        if parameter.dim() == 1:  # norms that change something
            parameter.data += 0.3 * torch.randn_like(parameter)
    decoder: torch.nn.Module = vae.decoder
    return decoder


@pytest.mark.parametrize("rows", [5, 16, 1000])
@pytest.mark.parametrize("shape", [(1, 4, 5, 8), (2, 4, 8, 3)])
def test_they_are_the_same(
    rows: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a strip's height: odd ones begin in the middle of an enlarged row."""
    monkeypatch.setattr(strips, "ROWS", rows)
    decoder = decoder_of(SMALL)
    latents = 5 * torch.randn(shape)
    given = latents.clone()
    with torch.no_grad():
        whole = decoder(latents)
    found = decode_in_strips(decoder, latents)
    assert torch.equal(latents, given)
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-4)


def test_sdxls_pictures_take_half_the_memory() -> None:
    pretence = Pretence()
    with pretence(), torch.no_grad():
        decoder = vaes.Float32VAE.from_config(CONFIGS["sdxl"]["vae"]).eval().decoder
        latents = torch.empty(1, 4, 64, 64)
        whole = watch(lambda: decoder(latents), lambda picture: picture)
        parts = watch(lambda: decode_in_strips(decoder, latents), lambda picture: picture)
    assert parts.peak < whole.peak / 2


def test_a_picture_that_does_not_fit_the_memory_is_decoded_in_strips(
    tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = open_base(str(tiny_models["base"])).vae()
    latents = torch.randn(2, 4, 24, 24)
    with torch.no_grad():
        whole = vae.decode(latents, return_dict=False)[0]

    def no_memory(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(vae.decoder, "forward", no_memory)
    with torch.no_grad():
        torch.testing.assert_close(vae.decode(latents).sample, whole, rtol=1e-4, atol=1e-4)
    vae.decoder.up_blocks[0] = torch.nn.Identity()  # of another architecture
    with pytest.raises(torch.OutOfMemoryError):
        vae.decode(latents)


@pytest.mark.parametrize(
    ("room", "calls"), [(8, [5]), (3, [5, 2, 2, 1]), (1, [5, 2, 1, 1, 1, 1, 1])]
)
def test_pictures_are_encoded_as_many_at_a_time_as_fit(
    room: int, calls: list[int], tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = open_base(str(tiny_models["base"])).encoder(torch.device("cpu"))
    pixels = torch.rand(5, 3, 64, 48) * 2 - 1
    mean, std = encoder.encode_pictures(pixels)
    encode, seen = encoder.vae.encoder.forward, []

    def little_memory(given: torch.Tensor) -> torch.Tensor:
        seen.append(len(given))
        if len(given) > room:
            raise torch.OutOfMemoryError
        result: torch.Tensor = encode(given)
        return result

    monkeypatch.setattr(encoder.vae.encoder, "forward", little_memory)
    found = encoder.encode_pictures(pixels)
    assert seen == calls
    torch.testing.assert_close(found, (mean, std))
    room = 0
    with pytest.raises(ElfError) as error:
        encoder.encode_pictures(pixels)
    assert str(error.value) == (
        "cpu has no memory for the VAE to encode a picture of 48×64 px: free some, or take the "
        "CPU (--trainer.accelerator cpu)"
    )
