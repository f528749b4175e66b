import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from elf.errors import ElfError
from elf.taggers import TorchTagger, WDPreprocess
from elf.taggers.timm_network import PixelNetwork, TimmSettings
from elf.taggers.wd_torch import check_pictures, torch_preprocess
from elf.tiny.timm_tagger import FAMILIES, SIZE, build


@pytest.fixture
def folder(tmp_path):
    return build(tmp_path / "tagger")


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def configure(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        within = config["pretrained_cfg"] if key in ("input_size", "mean", "std") else config
        within[key] = value
    path.write_text(json.dumps(config))


def rescale(folder, name, factor):
    state = load_file(folder / "model.safetensors")
    state[name] = state[name] * factor
    save_file(state, folder / "model.safetensors")


def test_mean_and_deviation_are_of_red_green_and_blue(folder):
    mean, std = [0.1, 0.3, 0.6], [0.2, 0.4, 0.5]
    configure(folder, mean=mean, std=std)
    tagger, pixels = TorchTagger(folder), pictures(2)
    normalised = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2)[:, ::-1]  # RGB → BGR
    logits = tagger._network.network(torch.tensor(normalised.copy(), dtype=torch.float32))
    np.testing.assert_allclose(tagger.score(pixels), logits.sigmoid(), atol=1e-5)


def test_the_embedding_is_what_the_head_takes(folder):
    tagger = TorchTagger(folder)
    scores, embedding = tagger.describe(pictures(2))
    head = tagger._network.network.get_classifier()
    np.testing.assert_allclose(head(torch.tensor(embedding)).sigmoid(), scores, atol=1e-5)


def test_pixels_may_be_read_only_and_of_any_strides(folder):
    pixels = pictures(2)
    tagger = TorchTagger(folder)
    expected = tagger.score(pixels)
    frozen = pixels.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(tagger.score(frozen), expected)
    turned = np.ascontiguousarray(pixels.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(tagger.score(turned), expected)


def test_convnext_runs_with_its_channels_last(tmp_path):
    tagger = TorchTagger(build(tmp_path, FAMILIES["convnext"]))
    kernel = tagger._network.network.stem[0].weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)


def test_the_preprocessing_needs_no_weights(folder):
    (folder / "model.safetensors").unlink()
    assert torch_preprocess(folder) == WDPreprocess(SIZE)


def test_tables_that_older_versions_stored_are_passed_over(folder):
    expected = TorchTagger(folder).score(pictures(1))
    state = load_file(folder / "model.safetensors")
    state["layers.0.blocks.0.attn.relative_coords_table"] = torch.zeros(3)
    save_file(state, folder / "model.safetensors")
    np.testing.assert_array_equal(TorchTagger(folder).score(pictures(1)), expected)


# What is wrong with a folder


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"architecture": "x"}',
        '{"architecture": "x", "pretrained_cfg": {"input_size": []}}',
        '{"architecture": "x", "pretrained_cfg": {"input_size": [3, 8, 8], "mean": [0],'
        ' "std": [1]}}',
        '{"architecture": "x", "model_args": 3, "pretrained_cfg": {"input_size": [3, 8, 8],'
        ' "mean": [0, 0, 0], "std": [1, 1, 1]}}',
        '{"architecture": "x", "pretrained_cfg": {"input_size": [3, 8, 8], "mean": [0, 0, 0],'
        ' "std": [1, 0, 1]}}',
    ],
)
def test_a_damaged_config_is_one_line(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ElfError, match=r"config.json: not timm's config of a network \(archi") as e:
        torch_preprocess(folder)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("shape", [[3, 32, 48], [1, 32, 32], [32]])
def test_an_input_that_is_not_square_is_refused(folder, shape):
    configure(folder, input_size=shape)
    with pytest.raises(ElfError, match=r"config.json: an input of \[.*\], not of \(3, \d+, \d+\)"):
        torch_preprocess(folder)


def test_an_input_of_another_size_than_the_networks_is_refused(folder):
    configure(folder, input_size=[3, 64, 64])
    with pytest.raises(
        ElfError, match=r"an input of 32, not of \(3, 64, 64\) in all places; is it"
    ):
        torch_preprocess(folder)


@pytest.mark.parametrize("name", ["swinv3_huge", "hf-hub:someone/something", "/etc/passwd"])
def test_an_unknown_architecture_is_one_line(folder, name):
    configure(folder, architecture=name)
    with pytest.raises(
        ElfError, match=rf"knows no architecture '{name}'; `pip install -U timm`, o"
    ):
        TorchTagger(folder)


@pytest.mark.parametrize(
    "arguments", [{"embed_dim": "wide"}, {"window_size": "wide"}, {"pretrained": True}]
)
def test_arguments_that_a_network_does_not_take_are_one_line(folder, arguments):
    configure(folder, model_args=arguments)
    with pytest.raises(
        ElfError, match=r"config.json: timm .* could not build swinv2_base_wind"
    ) as e:
        TorchTagger(folder)
    assert "\n" not in str(e.value)


def test_millions_of_blocks_are_not_built(folder):
    configure(folder, model_args={"depths": [2, 2, 3_000_000]})
    with pytest.raises(
        ElfError, match=r"tagger: .*config.json has depths 3000000, more than any network; download"
    ):
        TorchTagger(folder)


def test_a_list_of_another_model_is_refused(folder):
    with (folder / "selected_tags.csv").open("a") as file:
        file.write("12,one_more,0,0\n")
    with pytest.raises(
        ElfError, match=r"config.json: num_classes 12 for the 13 tags of selected_t"
    ):
        TorchTagger(folder)
    configure(folder, num_classes=None)
    with pytest.raises(
        ElfError, match=r"its weights are not those of the network in config.json \(s"
    ):
        TorchTagger(folder)


def test_weights_of_another_network_are_refused(folder, tmp_path):
    other = build(tmp_path / "other", FAMILIES["vit"])
    (other / "model.safetensors").replace(folder / "model.safetensors")
    with pytest.raises(ElfError, match=r"model.safetensors: its weights are not those of") as error:
        TorchTagger(folder)
    assert "\n" not in str(error.value) and "Missing key(s)" in str(error.value)


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5])
def test_damaged_weights_are_one_line(folder, part):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(
        ElfError, match=r"model.safetensors: could not be loaded \(.*\); fetch"
    ) as e:
        TorchTagger(folder)
    assert "\n" not in str(e.value)


def test_without_timm_the_way_out_is_told(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        ElfError, match=r"model.wd.backend: torch needs timm \(.*\); `pip install ti"
    ):
        TorchTagger(folder)


def test_a_gpu_that_is_not_there_is_refused(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ElfError, match=r"model.wd.provider: torch .* finds no CUDA device; `auto` t"
    ):
        TorchTagger(folder, provider="cuda")


# Memory


class Starving(torch.nn.Module):
    """A network that runs out of memory beyond a number of pictures."""

    def __init__(self, network, limit, error):
        super().__init__()
        self.network, self.limit, self.error = network, limit, error
        self.dtype = network.dtype
        self.sizes = []

    def forward(self, pixels):
        self.sizes.append(len(pixels))
        if len(pixels) > self.limit:
            raise self.error
        return self.network(pixels)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA: tried to allocate 20.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    ],
)
def test_the_batch_is_halved_when_memory_runs_out(folder, error):
    tagger = TorchTagger(folder)
    pixels = pictures(13)
    expected = tagger.describe(pixels)
    tagger._network = starving = Starving(tagger._network, 3, error)
    with pytest.warns(UserWarning, match=r"out of memory with \d+ pictures at once; going on wi"):
        found = tagger.describe(pixels)
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)
    assert starving.sizes == [13, 6, 3, 3, 3, 3, 1] and tagger.micro_batch == 3


def test_no_memory_for_a_single_picture_is_one_line(folder):
    tagger = TorchTagger(folder)
    tagger._network = Starving(tagger._network, 0, torch.OutOfMemoryError("none"))
    with pytest.raises(ElfError, match="not enough memory for a single picture on torch cpu float"):
        tagger.score(pictures(1))


def test_no_memory_for_the_weights_is_one_line(folder, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried")

    monkeypatch.setattr("elf.taggers.wd_torch.load_network", fail)
    with pytest.raises(
        ElfError, match=r"not enough memory for the tagger on cpu; free some, or ta"
    ):
        TorchTagger(folder)


def test_other_errors_are_not_taken_for_a_lack_of_memory(folder, monkeypatch):
    tagger = TorchTagger(folder)
    tagger._network = Starving(tagger._network, 0, RuntimeError("invalid argument"))
    with pytest.raises(RuntimeError, match="invalid argument"):
        tagger.score(pictures(1))

    def fail(*_):
        raise RuntimeError("an assert on the device")

    monkeypatch.setattr("elf.taggers.wd_torch.load_network", fail)
    with pytest.raises(RuntimeError, match="an assert on the device"):
        TorchTagger(folder)


# Number formats


def test_a_network_that_overflows_in_float16_runs_in_float32(folder):
    rescale(folder, "patch_embed.proj.weight", 1e6)  # a layer norm follows: float32 bears it
    exact = TorchTagger(folder)
    assert exact.provider == "torch cpu float32"
    match = r"model.safetensors: in float16 its values are not finite; the tagger runs in float32"
    with pytest.warns(UserWarning, match=match):
        tagger = TorchTagger(folder, dtype="float16")
    assert tagger.provider == "torch cpu float32"
    np.testing.assert_array_equal(tagger.score(pictures(2)), exact.score(pictures(2)))


def test_finite_values_that_differ_are_not_enough(folder):
    rescale(folder, "head.fc.weight", 1000)  # what rounding moves, a thousand times as far
    exact = TorchTagger(folder)
    with pytest.warns(UserWarning, match=r"in float16 a probability differs by 0.* from float32's"):
        tagger = TorchTagger(folder, dtype="float16")
    assert tagger.provider == "torch cpu float32"
    np.testing.assert_array_equal(tagger.score(pictures(2)), exact.score(pictures(2)))


def test_a_picture_that_overflows_in_float16_is_scored_in_float32(folder, monkeypatch):
    expected = TorchTagger(folder).score(np.zeros((1, SIZE, SIZE, 3), np.uint8))
    real = PixelNetwork.forward

    def fail_on_black(self, pixels):
        outputs = real(self, pixels)
        if self.dtype == torch.float16 and not pixels.any():
            outputs[0, 0] = np.nan
        return outputs

    monkeypatch.setattr(PixelNetwork, "forward", fail_on_black)
    tagger = TorchTagger(folder, dtype="float16")
    tagger.score(pictures(2))
    assert tagger.provider == "torch cpu float16"
    with pytest.warns(
        UserWarning, match="in float16 its values are not finite for a picture; the t"
    ):
        scores = tagger.score(np.zeros((1, SIZE, SIZE, 3), np.uint8))
    np.testing.assert_array_equal(scores, expected)
    assert tagger.provider == "torch cpu float32"


def test_values_that_are_not_finite_in_float32_are_refused(folder):
    rescale(folder, "patch_embed.proj.weight", np.nan)
    with pytest.raises(ElfError, match="its outputs are no probabilities between 0 and 1"):
        TorchTagger(folder).score(pictures(1))


def test_the_check_looks_at_a_ramp_noise_and_white():
    ramp, noise, white = check_pictures(SIZE)
    assert ramp[0, 0, 0, 0] == 0 and ramp[0, -1, -1, -1] == 255
    assert np.unique(noise).size > 200 and (white == 255).all()


def test_settings_are_read_as_they_stand(folder):
    settings = TimmSettings.read(folder / "config.json")
    assert (settings.architecture, settings.size) == ("swinv2_base_window8_256", SIZE)
    assert (settings.mean, settings.std) == ((0.5,) * 3, (0.5,) * 3)
