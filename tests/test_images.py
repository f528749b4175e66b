import io
import struct

import numpy as np
import pytest
from PIL import Image

from elf import images
from elf.images import BadImage, LabelledPictures, decode, decode_small, picture_id, picture_names

WHITE, RED = (255, 255, 255), (255, 0, 0)


def encode(image, format_="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def gradient(mode="L", size=(16, 16)):
    values = np.linspace(0, 255, size[0] * size[1]).astype(np.uint8).reshape(size[::-1])
    return Image.fromarray(values).convert(mode)


def test_gray_stays_gray_and_black_stays_black():
    pixels = np.asarray(decode(encode(gradient("L"))))
    assert pixels.shape == (16, 16, 3)
    assert (pixels == np.asarray(gradient("L"))[..., None]).all()
    assert pixels[0, 0].tolist() == [0, 0, 0]


def test_gray_with_alpha_is_laid_over_white():
    image = Image.new("LA", (2, 1), (0, 255))
    image.putpixel((1, 0), (0, 0))
    pixels = np.asarray(decode(encode(image)))
    assert pixels[0].tolist() == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize("alpha", [0, 64, 128, 255])
def test_alpha_is_composited_and_not_dropped(alpha):
    pixels = np.asarray(decode(encode(Image.new("RGBA", (3, 3), (*RED, alpha)))))
    expected = np.array(RED) * alpha / 255 + np.array(WHITE) * (1 - alpha / 255)
    assert np.abs(pixels[0, 0] - expected).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_strips_over_a_background_are_the_whole_picture_over_it(monkeypatch, mode):
    draw = np.random.default_rng(0)
    image = Image.fromarray(draw.integers(0, 256, (31, 23, 4), dtype=np.uint8), "RGBA")
    image = image.convert("LA" if mode == "LA" else "RGBA" if mode == "RGBA" else "P")
    if mode == "P":
        image.info["transparency"] = 5
    elif mode == "PA":
        image = image.convert("PA")
    canvas = Image.new("RGBA", image.size, (10, 200, 30, 255))
    whole = Image.alpha_composite(canvas, image.convert("RGBA")).convert("RGB")
    for strip in (1, 50, 10_000):
        monkeypatch.setattr(images, "STRIP", strip)
        assert np.array_equal(images._over(image, (10, 200, 30)), whole)


def test_a_webp_whose_decoder_would_take_a_gigabyte_is_refused(monkeypatch):
    monkeypatch.setattr(images, "MAX_WEBP_PIXELS", 99)
    picture = Image.new("RGB", (10, 10))
    assert decode(encode(picture, "PNG")).size == (10, 10)
    with pytest.raises(BadImage, match=r"more than 99 pixels: make it smaller"):
        decode(encode(picture, "WEBP"))


def test_the_background_can_be_chosen():
    image = Image.new("RGBA", (1, 1), (*RED, 0))
    assert decode(encode(image), background=(1, 2, 3)).getpixel((0, 0)) == (1, 2, 3)


def test_a_palette_with_a_transparent_colour_is_laid_over_white():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    pixels = np.asarray(decode(encode(image, transparency=1)))
    assert pixels[0].tolist() == [list(RED), list(WHITE)]


def test_cmyk_becomes_rgb():
    pixels = np.asarray(decode(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")))
    assert np.abs(pixels.astype(int) - RED).max() < 12


@pytest.mark.parametrize("value", [0, 257, 32896, 65535])
def test_sixteen_bits_are_scaled_and_not_clipped(value):
    image = Image.fromarray(np.full((2, 2), value, np.uint16))
    assert image.mode == "I;16"
    assert decode(encode(image)).getpixel((0, 0)) == (round(value / 257),) * 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    turned = {  # how a camera stores a picture that a viewer must turn upright
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).T,
        8: np.rot90(upright, -1),
    }[orientation]
    image = Image.fromarray(np.ascontiguousarray(turned))
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = np.asarray(decode(encode(image, exif=exif)))[..., 0]
    assert (result == upright).all()


def test_damaged_exif_does_not_cost_the_picture():
    broken = b"Exif\x00\x00II*\x00" + struct.pack("<IH", 8, 500) + b"\xff" * 30
    data = encode(gradient("RGB"), "JPEG", exif=broken)
    assert decode(data).size == (16, 16)


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 0, 255))]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data).getpixel((0, 0)) == RED


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_one_pixel(format_):
    data = encode(Image.new("RGB", (1, 1), WHITE), format_)
    assert decode(data).getpixel((0, 0)) == WHITE


@pytest.mark.fault(13)
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_truncated(format_):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), format_)
    for length in (len(data) // 4, len(data) // 2, len(data) - 40):
        with pytest.raises(BadImage, match=r"damaged|not a picture"):
            decode(data[:length])


@pytest.mark.parametrize("data", [b"", b"hello", b"\x00" * 500, b"GIF89a", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(BadImage, match=r"not a picture of a known format|damaged"):
        decode(data)


@pytest.mark.fault(15)
def test_a_bomb_is_refused_before_it_is_unpacked():
    data = encode(Image.new("1", (14000, 14000)))
    with pytest.raises(BadImage, match=r"more than 178,956,970 pixels: make it smaller"):
        decode(data)


def test_formats_beyond_the_list_are_refused():
    with pytest.raises(BadImage, match="not a picture of a known format"):
        decode(encode(gradient("RGB"), "TIFF"))


def test_the_id_is_the_beginning_of_the_sha256():
    assert picture_id(b"abc") == "ba7816bf8f01cfea"


def test_listing_is_sorted_and_leaves_out_what_is_hidden_or_no_picture(tmp_path):
    for name in ("b.JPG", "a/z.png", "a.txt", ".hidden/x.png", "a/.y.png", "B.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    assert picture_names(tmp_path) == ["B.webp", "a/z.png", "b.JPG"]


@pytest.mark.fault(13)
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_damage_at_random_bytes_is_a_picture_or_one_kind_of_error(format_):
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 255, (32, 32, 3), dtype=np.uint8)
    data = np.frombuffer(encode(Image.fromarray(noise), format_), np.uint8)
    for _ in range(150):
        broken = data.copy()
        broken[draw.integers(0, min(len(data), 400), 4)] = draw.integers(0, 256, 4)
        try:
            assert decode(broken.tobytes()).mode == "RGB"
        except BadImage as error:
            assert "\n" not in str(error)


def test_a_jpeg_may_be_decoded_small_and_its_whole_size_is_known():
    image = gradient("RGB", (64, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # it lies on its side
    asked = []

    def half(width, height):
        asked.append((width, height))
        return width // 2, height // 2

    small, size = decode_small(encode(image, "JPEG", exif=exif), half)
    assert (small.size, size, asked) == ((16, 32), (32, 64), [(64, 32)])
    assert decode_small(encode(image, "PNG"), half)[0].size == (64, 32)
    whole, size = decode_small(encode(image, "JPEG"), None)
    assert whole.size == size == (64, 32)


def test_labelled_pictures_are_found_by_path_or_by_the_id_that_they_are_called_by(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/0123456789abcdef.png"):
        (tmp_path / name).write_bytes(b"")
    there = LabelledPictures(tmp_path)
    assert there.names == ["a.png", "sub/0123456789abcdef.png"]
    assert there.path("a.png", "fedcba9876543210") == "a.png"
    assert there.path("old.png", "0123456789abcdef") == "sub/0123456789abcdef.png"
    assert there.path("gone.png", "fedcba9876543210") == "gone.png"
    assert LabelledPictures(tmp_path / "nowhere").path("a.png", "x") == "a.png"
