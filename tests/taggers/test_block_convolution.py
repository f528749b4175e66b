"""A convolution over blocks of pixels is the one over pixels."""

import pytest
import torch

from elf.taggers.block_convolution import BlockConvolution


def conv(side, stride, padding, **more):
    torch.manual_seed(0)
    return torch.nn.Conv2d(3, 8, side, stride, padding, bias=False, **more)


@pytest.mark.parametrize(("side", "stride", "padding"), [(7, 4, 3), (5, 4, 1), (3, 2, 1)])
@pytest.mark.parametrize("last", [True, False])
@torch.inference_mode()
def test_it_gives_the_same(side, stride, padding, last):
    layer = conv(side, stride, padding)
    assert BlockConvolution.is_possible(layer)
    pixels = torch.randn(2, 3, 6 * stride, 9 * stride)
    if last:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    blocks = BlockConvolution(layer)
    assert blocks.fits(pixels)
    ours = blocks(pixels)
    torch.testing.assert_close(ours, layer(pixels), rtol=1e-5, atol=1e-5)
    assert ours.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "layer",
    [
        conv(7, 4, 2),
        conv(8, 4, 4),
        conv(4, 4, 0),
        conv(9, 4, 5),
        conv((7, 5), 4, (3, 1)),
        conv(7, 4, 3, dilation=2),
        conv(7, 4, 3, padding_mode="reflect"),
        torch.nn.Conv2d(4, 8, 7, 4, 3, groups=2),
    ],
    ids=str,
)
def test_others_are_not_taken_for_it(layer):
    assert not BlockConvolution.is_possible(layer)


def test_pictures_of_broken_blocks_do_not_fit():
    assert not BlockConvolution(conv(7, 4, 3)).fits(torch.zeros(1, 3, 8, 10))
