import numpy as np
import pytest
from PIL import Image

from elf.embedders.copies import PREPROCESSING
from elf.embedders.preprocessing import MOST_ASPECT, Preprocessing
from elf.errors import ElfError

SIZES = [(64, 64), (97, 64), (64, 131), (31, 50), (300, 299), (255, 1000)]


def noise(size):
    random = np.random.default_rng(sum(size))
    return Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def processors():
    from transformers import BitImageProcessor, CLIPImageProcessor

    square = {"height": 48, "width": 48}
    return {
        "dino": BitImageProcessor(
            size={"shortest_edge": 40}, crop_size={"height": 35, "width": 35}
        ),
        "clip": CLIPImageProcessor(size={"shortest_edge": 48}, crop_size=square),
        "old clip": CLIPImageProcessor(size=48, crop_size=48),
        "square": CLIPImageProcessor(size=square, do_center_crop=False),
        "bilinear": CLIPImageProcessor(size={"shortest_edge": 48}, crop_size=square, resample=2),
    }


@pytest.mark.parametrize("name", ["dino", "clip", "old clip", "square", "bilinear"])
@pytest.mark.parametrize("size", SIZES)
def test_the_pixels_are_those_of_the_models_own_processor(name, size, tmp_path):
    from transformers import AutoImageProcessor

    processors()[name].save_pretrained(tmp_path)
    pillow = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    made = Preprocessing.of(AutoImageProcessor.from_pretrained(tmp_path), "m")(noise(size))
    expected = pillow(noise(size), return_tensors="np").pixel_values[0]
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, expected, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_copies_are_sought_as_their_authors_recommend(size):
    from torchvision import transforms

    recipe = transforms.Compose(
        [
            transforms.Resize(288),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    np.testing.assert_allclose(PREPROCESSING(noise(size)), recipe(noise(size)).numpy(), atol=1e-5)


def test_resizing_is_antialiased():
    stripes = np.zeros((640, 640, 3), np.uint8)
    stripes[:, ::2] = 255  # a filter of fixed width would give some other stripes
    made = Preprocessing(64, None, None, 2, (0.0,) * 3, (1.0,) * 3)(Image.fromarray(stripes))
    np.testing.assert_allclose(made, 0.5, atol=0.02)


def test_a_strip_takes_no_gigabytes():
    strip = noise((20, 20_000))
    assert PREPROCESSING(strip).shape == (3, MOST_ASPECT * 288, 288)
    cut = Preprocessing(32, None, (32, 32), 2, (0.0,) * 3, (1.0,) * 3)
    middle = strip.crop((0, 9_960, 20, 10_040))
    np.testing.assert_array_equal(cut(strip), cut(middle))


@pytest.mark.parametrize(
    "change",
    [
        {"do_resize": False},
        {"do_normalize": False},
        {"do_rescale": False},
        {"rescale_factor": 1 / 127.5},
        {"size": {"longest_edge": 48}},
        {"size": {"height": 0, "width": 48}},
        {"crop_size": {"height": 64, "width": 48}},
        {"image_std": [0.2, 0.2]},
        {"image_std": [0.2, 0.2, 0.0]},
        {"image_mean": None},
        {"resample": None},
    ],
)
def test_a_processor_that_does_something_else_is_refused(change):
    class Other:
        def to_dict(self):
            return processors()["clip"].to_dict() | change

    with pytest.raises(ElfError, match=r"^m: its processor does not resize .*; take a model whose"):
        Preprocessing.of(Other(), "m")
