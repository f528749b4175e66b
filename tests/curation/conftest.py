"""Pictures that look like something: smooth shapes, edges and grain, another for each seed."""

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
from PIL import Image


@lru_cache
def draw_scene(seed: int, width: int = 480, height: int = 360) -> Image.Image:
    """Return a picture whose details fall off with their size, with some sharp shapes in it."""
    draw = np.random.default_rng(seed)
    pixels = np.zeros((height, width, 3))
    for cells, weight in ((3, 90), (6, 60), (12, 40), (24, 25), (48, 15), (96, 8), (240, 8)):
        coarse = draw.normal(0, weight, (cells, cells, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(coarse[:, :, channel]).resize((width, height), 3)
            pixels[:, :, channel] += np.asarray(layer)
    for _ in range(6):
        x, y = draw.integers(0, width), draw.integers(0, height)
        w, h = draw.integers(20, width // 3), draw.integers(20, height // 3)
        pixels[y : y + h, x : x + w] += draw.normal(0, 60, 3)
    return Image.fromarray(np.clip(pixels + 128, 0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def scene() -> Callable[..., Image.Image]:
    return draw_scene


@pytest.fixture(scope="session")
def saved() -> Callable[..., bytes]:
    """A picture's bytes in a format."""

    def save(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        return buffer.getvalue()

    return save


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def resized(image: Image.Image, times: float) -> Image.Image:
    size = round(image.width * times), round(image.height * times)
    return image.resize(size, Image.Resampling.BICUBIC)


def leveled(image: Image.Image, gain: float, offset: float) -> Image.Image:
    return image.point(lambda value: value * gain + offset)


def cropped(image: Image.Image, left: float, top: float, right: float, bottom: float):
    w, h = image.size
    return image.crop((int(left * w), int(top * h), int((1 - right) * w), int((1 - bottom) * h)))


def bordered(image: Image.Image, share: float, colour: str) -> Image.Image:
    extra = int(share * image.width)
    canvas = Image.new("RGB", (image.width + 2 * extra, image.height + 2 * extra), colour)
    canvas.paste(image, (extra, extra))
    return canvas


def marked(image: Image.Image) -> Image.Image:
    image = image.copy()
    w, h = image.size
    image.paste("white", (int(0.6 * w), int(0.88 * h), int(0.97 * w), int(0.96 * h)))
    return image


SAME = {
    "recompressed": lambda i: jpeg(i, 40),
    "half": lambda i: resized(i, 0.5),
    "third, recompressed": lambda i: jpeg(resized(i, 1 / 3), 70),
    "twice": lambda i: resized(i, 2),
    "brighter": lambda i: leveled(i, 1, 25),
    "darker": lambda i: leveled(i, 0.6, 0),
    "less contrast": lambda i: leveled(i, 0.7, 40),
    "gray": lambda i: i.convert("L").convert("RGB"),
    "other shape": lambda i: i.resize((i.width, round(0.9 * i.height))),
}
"""What a perceptual hash alone has to bear."""

NEARLY = {
    "crop around": lambda i: cropped(i, 0.04, 0.04, 0.04, 0.04),
    "crop at one side": lambda i: cropped(i, 0.06, 0, 0, 0),
    "crop and recompressed": lambda i: jpeg(cropped(i, 0, 0.05, 0.02, 0), 70),
    "white border": lambda i: bordered(i, 0.03, "white"),
    "black border": lambda i: bordered(i, 0.03, "black"),
    "mark": marked,
}
"""What is found by laying pictures over each other."""


@pytest.fixture(params=sorted(SAME))
def same(request: pytest.FixtureRequest) -> Callable[[Image.Image], Image.Image]:
    return SAME[request.param]


@pytest.fixture(params=sorted(NEARLY))
def nearly(request: pytest.FixtureRequest) -> Callable[[Image.Image], Image.Image]:
    return NEARLY[request.param]
