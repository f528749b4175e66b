"""Packed rows cost what documents cost alone, and a step's gradients do not depend on its parts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elf.adapters import AdapterConfig
from elf.datamodules.textloader import Rows, TextLoader
from elf.language.base import LanguageBase
from elf.language.network import LanguageNetwork, build_language

LENGTH = 64


class Documents:
    """Documents of random tokens, of which the second halves are trained on."""

    def __init__(self, lengths: list[int], vocabulary: int = 500) -> None:
        random = np.random.default_rng(0)
        self.ids = np.arange(1, len(lengths) + 1, dtype=np.uint64)
        self.lengths = np.array(lengths, np.int64)
        self._tokens = [random.integers(3, vocabulary, n) for n in lengths]
        self.trained_counts = np.array([n - n // 2 for n in lengths], np.int64)

    def document(self, number: int) -> tuple[Any, Any]:
        tokens = self._tokens[number]
        return tokens, np.arange(len(tokens)) >= len(tokens) // 2


@pytest.fixture(params=["lora", "dora"])
def network(request: pytest.FixtureRequest, tiny_language: Path) -> LanguageNetwork:
    torch.manual_seed(0)
    config = AdapterConfig(request.param, rank=4, targets="attention+feedforward")
    built = build_language(LanguageBase(str(tiny_language)), config)
    draw = torch.Generator().manual_seed(0)
    for name, parameter in built.network.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(0, 0.2, generator=draw)
    return built.network


def rows(documents: Documents, members: list[list[int]], packed: bool) -> Rows:
    edges = np.full(len(members), LENGTH)
    return Rows(documents, [np.array(each) for each in members], edges, 0, packed)


def gradients(network: LanguageNetwork) -> torch.Tensor:
    found = [p.grad.flatten() for p in network.trained_parameters() if p.grad is not None]
    network.zero_grad()
    return torch.cat(found)


def of_batch(network: LanguageNetwork, batch: dict[str, Any], weight: float) -> torch.Tensor:
    batch["token_weight"] = torch.full((len(batch["tokens"]),), weight)
    errors, weighted = network.training_errors(batch)
    weighted.sum().backward()
    return errors


def test_packed_rows_are_their_documents(network: LanguageNetwork) -> None:
    documents = Documents([20, 31, 13, 40, 7])
    packs = [[0, 1, 2], [3, 4]]
    network.errors(rows(documents, packs, True).batch([0, 1]))
    packed = network.errors(rows(documents, packs, True).batch([0, 1]))
    alone = network.errors(rows(documents, [[n] for n in range(5)], False).batch(range(5)))
    sums = alone.errors.sum(1)
    expected = torch.stack([sums[:3].sum(), sums[3:].sum()])
    torch.testing.assert_close(packed.errors.sum(1), expected, rtol=1e-5, atol=1e-5)
    assert packed.trained.sum() == alone.trained.sum() == documents.trained_counts.sum()
    of_batch(network, rows(documents, packs, True).batch([0, 1]), 0.01)
    together = gradients(network)
    of_batch(network, rows(documents, [[n] for n in range(5)], False).batch(range(5)), 0.01)
    torch.testing.assert_close(together, gradients(network), rtol=1e-4, atol=1e-6)


def test_what_another_document_says_changes_nothing(network: LanguageNetwork) -> None:
    documents = Documents([20, 31, 13])
    batch = rows(documents, [[0, 1, 2]], True).batch([0])
    before = network.errors(batch).errors[0, 20:51]
    batch["tokens"][0, :20] = 5
    assert torch.equal(network.errors(batch).errors[0, 20:51], before)
    batch["tokens"][0, 25] = 5
    assert not torch.equal(network.errors(batch).errors[0, 20:51], before)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("size", "accumulation", "world"), [(8, 1, 1), (4, 2, 1), (1, 8, 1),
                                                               (2, 2, 2)])  # fmt: skip
def test_a_steps_gradient_is_the_same_in_any_parts(
    size: int, accumulation: int, world: int, packed: bool, network: LanguageNetwork
) -> None:
    """The mean of means would be far off: rows have from 3 to 32 trained tokens."""
    documents = Documents([5, 9, 60, 33, 17, 64, 6, 50])
    made = rows(documents, [[n] for n in range(8)], packed)
    total = torch.zeros(())
    for rank in range(world):
        loader = TextLoader(made, size, accumulation, 0, "hash", world, rank)
        for batch in loader:
            _, weighted = network.training_errors(batch)
            # as a step divides: by batches and processes
            (weighted.mean() / accumulation / world).backward()
            total = total + weighted.detach().mean() / accumulation / world
    found = gradients(network)
    batch = rows(documents, [[n] for n in range(8)], False).batch(range(8))
    whole = network.errors(batch)
    mean = whole.errors.sum() / whole.trained.sum()
    mean.backward()
    torch.testing.assert_close(total, mean.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found, gradients(network), rtol=1e-4, atol=1e-6)


def test_a_batch_says_where_documents_begin_in_one_shape() -> None:
    documents = Documents([3, 4, 5, 60])
    made = rows(documents, [[0, 1, 2], [3]], True)
    batch = made.batch([1, 0])
    assert batch["borders"].tolist() == [0, 60, 64, 67, 71, 76, 128, 128, 128]
    assert batch["positions"][1, :13].tolist() == [0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3, 4, 0]
    assert batch["documents"][1, :13].tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3]
    labels = batch["labels"][1, :12].tolist()
    words = batch["tokens"][1].tolist()
    trained = [words[1], words[2], -100, -100, words[5], words[6], -100]
    assert labels == [*trained, -100, words[9], words[10], words[11], -100]
    assert batch["seen"] == 72 and batch["id"] == ["0000000000000004", "0000000000000001"]
    assert made.batch([0])["borders"].tolist() == [0, 3, 7, 12, 64]


@pytest.mark.parametrize("varlen", [False, True])
def test_what_keeps_documents_apart_reaches_the_model_in_training(
    varlen: bool, tiny_language: Path
) -> None:
    """Whatever the module leaves on the CPU: without it packed documents would see each other."""
    from elf.modules import LanguageModule

    module = LanguageModule(str(tiny_language))
    module.configure_model()
    module.network.varlen = varlen
    batch = rows(Documents([20, 31, 13]), [[0, 1, 2]], True).batch([0])
    given = module.network.inputs(module.on_before_batch_transfer(batch, 0))
    assert given["position_ids"].flatten()[:22].tolist() == [*range(20), 0, 1]
    if varlen:
        assert (
            given["cu_seq_lens_q"].tolist() == [0, 20, 51, 64, 64] and "attention_mask" not in given
        )
    else:
        assert not given["attention_mask"][0, 0, 25, :20].any()
    alone = rows(Documents([20]), [[0]], False).batch([0])
    assert module.network.inputs(module.on_before_batch_transfer(alone, 0)).keys() == {"input_ids"}


def test_a_model_is_read_into_memory_wherever_networks_are_built(tiny_language: Path) -> None:
    """A GPU that holds 7 billion parameters in 4 bit may have no room for them in 16."""
    with torch.device("meta"):  # as Lightning does with a GPU
        model = LanguageBase(str(tiny_language)).network(torch.float32)
    assert {each.device.type for each in [*model.parameters(), *model.buffers()]} == {"cpu"}
