"""The tagger's torch network on a CUDA device; run with `pytest -m gpu`."""

import gc
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from elf.callbacks.labels import LabelWriter
from elf.datamodules.images import PictureFolder
from elf.files import read_log
from elf.modules.tagger import TaggerModule
from elf.quiet import silence_harmless_warnings
from elf.taggers import Rules, TorchTagger, WDConfig
from elf.taggers.graphs import MOST
from elf.tiny.timm_tagger import FAMILIES, SIZE, build

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

MIDDLING = (
    "swinv2_base_window8_256",
    {"img_size": 224, "window_size": 7, "embed_dim": 64, "depths": [2, 2, 4, 2],
     "num_heads": [2, 4, 8, 16], "act_layer": "gelu_tanh"},
)  # fmt: skip
"""Large enough for its activations to count beside the weights: some MB a picture."""


def pictures(count: int, size: int = SIZE) -> np.ndarray:
    """Noise over colours and edges of its own for each picture."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 64, (count, size, size, 3), dtype=np.uint8)
    for number, row in enumerate(rows):
        row += rng.integers(0, 192, 3, dtype=np.uint8)
        row[: size * (number % 7) // 7] = 20 * (number % 12)
    return rows


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp(request.param), FAMILIES[request.param])


def test_float16_is_near_float32(folder: Path) -> None:
    exact = TorchTagger(folder, "cuda")
    short = TorchTagger(folder, "cuda", "float16")
    assert (exact.provider, short.provider) == ("torch cuda float32", "torch cuda float16")
    pixels = pictures(12)
    (scores, embedding), (near, features) = exact.describe(pixels), short.describe(pixels)
    np.testing.assert_allclose(near, scores, atol=5e-3)
    assert embedding is not None and features is not None
    np.testing.assert_allclose(features, embedding, atol=0.05, rtol=0.05)
    assert np.ptp(scores, axis=0).max() > 0.1


def test_cuda_in_float32_is_near_the_cpu(folder: Path) -> None:
    pixels = pictures(12)
    expected = TorchTagger(folder).score(pixels)
    # convolutions may take TF32, whose numbers have as few bits as float16's
    np.testing.assert_allclose(TorchTagger(folder, "cuda").score(pixels), expected, atol=5e-3)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_scores_do_not_depend_on_the_batch(folder: Path, dtype: str) -> None:
    """By a graph up to 16 pictures, without beyond; in any order of the sizes."""
    tagger = TorchTagger(folder, "cuda", dtype)
    pixels = pictures(2 * MOST + 3)
    whole = tagger.score(pixels)
    assert tagger._graphs is not None and tagger._graphs._graphs == {}
    for size in (1, 8, 3, MOST, 1, MOST + 1, 2):
        parts = [tagger.score(pixels[at : at + size]) for at in range(0, len(pixels), size)]
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=2e-3)
    assert {1, 2, 3, 8, MOST} <= set(tagger._graphs._graphs)
    assert tagger._graphs._usable


def test_a_graph_gives_what_the_network_gives(folder: Path) -> None:
    tagger = TorchTagger(folder, "cuda", "float16")
    graphs, pixels = tagger._graphs, pictures(24)
    assert graphs is not None
    for size in (1, 2, 8, MOST):
        for at in range(0, len(pixels) - size + 1, size):
            part = pixels[at : at + size]
            tagger._graphs = graphs
            replayed = tagger.score(part)
            tagger._graphs = None
            np.testing.assert_allclose(replayed, tagger.score(part), atol=1e-3)


def test_the_first_micro_batch_fits_the_memory(tmp_path: Path) -> None:
    tagger = TorchTagger(build(tmp_path, MIDDLING, size=224), "cuda", "float16")
    assert 8 <= tagger.micro_batch <= 1 << 20
    assert tagger.micro_batch & (tagger.micro_batch - 1) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # memory must not run out
        tagger.score(pictures(min(tagger.micro_batch, 512), 224))


def test_the_batch_is_halved_under_a_real_limit(tmp_path: Path) -> None:
    tagger = TorchTagger(build(tmp_path, MIDDLING, size=224), "cuda", "float16")
    pixels = pictures(256, 224)
    expected = np.concatenate([tagger.score(pixels[at : at + 32]) for at in range(0, 256, 32)])
    tagger._make_room()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    tagger.score(pixels[:64])
    # room for some 64 pictures, where 256 are tried
    limit = torch.cuda.max_memory_reserved() * 1.25
    total = torch.cuda.get_device_properties(0).total_memory
    tagger.micro_batch = 256
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(limit / total)
    try:
        with pytest.warns(UserWarning, match=r"out of memory with 256 pictures at once; going on"):
            scores = tagger.score(pixels)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 16 <= tagger.micro_batch <= 128
    np.testing.assert_allclose(scores, expected, atol=2e-3)


def test_weights_that_do_not_bear_float16_run_in_float32(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = build(tmp_path)
    state = load_file(folder / "model.safetensors")
    state["patch_embed.proj.weight"] *= 1e6
    save_file(state, folder / "model.safetensors")
    with pytest.warns(
        UserWarning, match="in float16 its values are not finite; the tagger runs in"
    ):
        tagger = TorchTagger(folder, "cuda", "float16")
    assert tagger.provider == "torch cuda float32"
    tagger.score(pictures(3))


def test_a_compiled_network_gives_the_same(tmp_path: Path) -> None:
    folder, pixels = build(tmp_path, MIDDLING, size=224), pictures(13, 224)
    expected = TorchTagger(folder, "cuda", "float16").score(pixels)
    tagger = TorchTagger(folder, "cuda", "float16", compile=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch")  # the compiler's, about itself
        warnings.filterwarnings("error", message="model.wd.compile")
        scores = np.concatenate([tagger.score(pixels[:8]), tagger.score(pixels[8:])])
    np.testing.assert_allclose(scores, expected, atol=5e-3)


def test_one_wait_for_the_device_a_micro_batch(tmp_path: Path) -> None:
    tagger = TorchTagger(build(tmp_path), "cuda", "float16")
    for part in (pictures(4), pictures(40)):
        tagger.score(part)  # captured and warm
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                tagger.score(part)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        synced = [str(w.message) for w in caught if "called a synchroniz" in str(w.message)]
        assert len(synced) <= 1


def test_a_folder_is_labelled_on_the_gpu(tmp_path: Path) -> None:
    silence_harmless_warnings()
    folder = build(tmp_path / "tagger")
    (tmp_path / "raw").mkdir()
    for number, row in enumerate(pictures(21, 100)):
        Image.fromarray(row).save(tmp_path / "raw" / f"{number:02}.png")

    def run(**options: object) -> tuple[object, list[dict]]:
        module = TaggerModule(WDConfig(str(folder)), rules=Rules(**options))
        writer = LabelWriter()
        data = PictureFolder(
            str(tmp_path / "raw"), str(tmp_path / "labels"), str(tmp_path / "cache"),
            batch_size=8, workers=2, skip_existing=False,
        )  # fmt: skip
        trainer = Trainer(
            accelerator="cuda", devices=1, logger=False, callbacks=[writer],
            enable_progress_bar=False, enable_checkpointing=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.predict(module, datamodule=data, return_predictions=False)
        return writer.summary, read_log(tmp_path / "labels" / "manifest.jsonl")

    summary, records = run()
    assert summary.labelled == 21
    assert {r["attributes"]["wd"]["provider"] for r in records} == {"torch cuda float16"}
    summary, _ = run(threshold=0.2)
    assert summary.cached == 21
    # a machine without a GPU finds what this one scored
    module = TaggerModule(WDConfig(str(folder)))
    _, scores, _ = module.recall(str(tmp_path / "cache"), records[0]["sha256"])
    assert scores is not None and scores.provider == "torch cuda float16"
