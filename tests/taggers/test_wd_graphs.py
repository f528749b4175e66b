"""Faster runs of the torch tagger's network, and what happens where they cannot be had."""

import warnings
from contextlib import nullcontext
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

from elf.taggers import TorchTagger
from elf.taggers.graphs import MOST, MOST_COMPILED, CudaGraphs
from elf.tiny.timm_tagger import SIZE, build


@pytest.fixture
def folder(tmp_path):
    return build(tmp_path / "tagger")


def pictures(count):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def test_the_network_is_compiled_on_request(folder, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
    expected = TorchTagger(folder).score(pictures(2))
    assert compiled == []
    tagger = TorchTagger(folder, compile=True)
    np.testing.assert_array_equal(tagger.score(pictures(2)), expected)
    assert len(compiled) == 1


def test_fewer_pictures_than_before_are_not_compiled_anew(folder, monkeypatch):
    sizes = []

    def compile_(network):
        return lambda pixels: sizes.append(len(pixels)) or network(pixels)

    monkeypatch.setattr(torch, "compile", compile_)
    tagger = TorchTagger(folder, compile=True)
    expected = TorchTagger(folder).describe(pictures(5))
    for count in (4, 1, 3, 5, 2):
        for mine, others in zip(tagger.describe(pictures(count)), expected, strict=True):
            np.testing.assert_allclose(mine, others[:count], atol=1e-6)
    assert sizes == [4, 4, 4, 5, 5]


def test_pictures_that_were_only_added_do_not_count_as_those_that_did_not_fit(folder, monkeypatch):
    sizes = []

    def run(pixels):
        sizes.append(len(pixels))
        if len(pixels) > 2 and len(sizes) > 1:
            raise TorchDynamoException("OutOfMemoryError: CUDA out of memory")
        return tagger._network(pixels)

    monkeypatch.setattr(torch, "compile", lambda network: run)
    tagger = TorchTagger(folder, compile=True)
    expected = TorchTagger(folder).score(pictures(4))
    tagger.score(pictures(4))
    with pytest.warns(UserWarning, match="out of memory with 4 pictures at once; going on with 2"):
        np.testing.assert_allclose(tagger.score(pictures(1)), expected[:1], atol=1e-6)
    np.testing.assert_allclose(tagger.score(pictures(4)), expected, atol=1e-6)
    assert sizes == [4, 4, 1, 2, 2]


def test_what_cannot_be_compiled_is_captured_at_small_batches_alone(folder, monkeypatch):
    def fail(pixels):
        raise TorchDynamoException("no compiler")

    monkeypatch.setattr(torch, "compile", lambda network: fail)
    tagger = TorchTagger(folder, compile=True)
    tagger._graphs = CudaGraphs(tagger._launch, 0.01, MOST_COMPILED)
    with pytest.warns(UserWarning, match="could not compile the tagger"):
        tagger._launch(torch.from_numpy(pictures(1)))
    assert tagger._graphs.most == MOST


def test_what_cannot_be_compiled_runs_as_it_is(folder, monkeypatch):
    def fail(pixels):
        raise TorchDynamoException("no compiler\n\nSet TORCHDYNAMO_VERBOSE=1")

    monkeypatch.setattr(torch, "compile", lambda network: fail)
    tagger = TorchTagger(folder, compile=True)
    with pytest.warns(UserWarning, match=r"model.wd.compile: torch could not compile .*\(no comp"):
        scores = tagger.score(pictures(2))
    np.testing.assert_array_equal(scores, TorchTagger(folder).score(pictures(2)))
    with warnings.catch_warnings():  # it is told once
        warnings.simplefilter("error")
        tagger.score(pictures(2))


def test_memory_that_runs_out_while_compiling_halves_the_batch(folder, monkeypatch):
    def run(pixels):
        if len(pixels) > 1:
            raise TorchDynamoException("OutOfMemoryError: CUDA out of memory")
        return tagger._network(pixels)

    monkeypatch.setattr(torch, "compile", lambda network: run)
    tagger = TorchTagger(folder, compile=True)
    with pytest.warns(UserWarning, match="out of memory with 2 pictures at once"):
        tagger.score(pictures(2))
    assert tagger.micro_batch == 1


def test_large_batches_run_without_a_graph():
    graphs = CudaGraphs(lambda pixels: pixels.float(), 0.01)
    many = torch.zeros(MOST + 1, 2, 2, 3, dtype=torch.uint8)
    assert graphs(many).dtype == torch.float32


def test_a_graph_that_is_not_the_network_is_given_up(monkeypatch):
    tried = []

    def capture(self, pixels):
        tried.append(len(pixels))
        return "gives other outputs than the network (by 0.5)"

    monkeypatch.setattr(CudaGraphs, "_capture", capture)
    graphs = CudaGraphs(lambda pixels: pixels.float(), 0.01)
    few = torch.ones(2, 2, 2, 3, dtype=torch.uint8)
    with pytest.warns(
        UserWarning, match=r"a CUDA graph of the tagger gives other outputs than the "
    ):
        graphs(few)
    assert graphs(few).sum() == few.sum() and tried == [2]


@pytest.fixture
def fake_cuda(monkeypatch):
    """CUDA's calls around a capture, on a CPU: what is captured runs at once, a replay does not."""
    for name in ("stream", "device"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    for name in ("Stream", "CUDAGraph", "current_stream", "set_stream", "graph_pool_handle"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        monkeypatch.setattr(torch._C, name, MagicMock(), raising=False)
    graph = MagicMock(side_effect=lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", graph)
    return graph


def test_a_graph_is_captured_once_for_each_size(fake_cuda):
    runs = []

    def run(pixels):
        runs.append(len(pixels))
        return pixels.float()

    graphs = CudaGraphs(run, 0.01)
    for count in (2, 3, 2, 3):
        graphs(torch.ones(count, 2, 2, 3, dtype=torch.uint8))
    assert runs == [2, 2, 2, 2, 3, 3, 3, 3] and fake_cuda.call_count == 2
    graphs.clear()
    graphs(torch.ones(2, 2, 2, 3, dtype=torch.uint8))
    assert fake_cuda.call_count == 3


def test_what_cannot_be_captured_runs_as_it_is(fake_cuda):
    fake_cuda.side_effect = RuntimeError("operation not permitted when stream is capturing\nmore")
    graphs = CudaGraphs(lambda pixels: pixels.float(), 0.01)
    few = torch.ones(2, 2, 2, 3, dtype=torch.uint8)
    match = (
        r"could not be captured \(operation not permitted .* capturing\); it runs without, slower"
    )
    with pytest.warns(UserWarning, match=match):
        assert graphs(few).sum() == few.sum()
    # what torch leaves undone where a capture fails
    assert torch._C._cuda_endAllocateToPool.call_count == 1
    assert torch.cuda.set_stream.called
    fake_cuda.side_effect = torch.OutOfMemoryError("none")
    with pytest.raises(torch.OutOfMemoryError):
        CudaGraphs(lambda pixels: pixels.float(), 0.01)(few)


@pytest.mark.usefixtures("fake_cuda")
def test_outputs_of_a_graph_are_compared_with_the_networks():
    values = iter([1.0, 1.0, 1.5, 1.0, 1.0])
    graphs = CudaGraphs(lambda pixels: torch.full((2, 3), next(values)), 0.01)
    with pytest.warns(
        UserWarning, match=r"gives other outputs than the network \(by 0.25\); it runs"
    ):
        assert graphs(torch.ones(2, 2, 2, 3, dtype=torch.uint8)).sum() == 6
