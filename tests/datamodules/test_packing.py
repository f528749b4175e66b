"""Batches come out of one piece of memory as they went in."""

import pickle

import pytest
import torch

from elf.datamodules.packing import ALIGNED, pack
from elf.errors import ElfError


def batch() -> dict[str, object]:
    return {
        "id": ["a", "b", "c"],
        "preserved": torch.tensor([True, False, True]),
        "seed": torch.tensor([1, -(2**62), 3]),
        "caption": ["x", "", "y"],
        "latent_mean": torch.randn(3, 4, 5, 7),
        "none": torch.zeros(3, 0),
        "mask": torch.rand(3, 5, 7).half(),
        "weight": torch.tensor(2.5),
    }


def test_nothing_changes() -> None:
    given = batch()
    found = pickle.loads(pickle.dumps(pack(given))).batch()
    assert list(found) == list(given)
    for name, value in given.items():
        if isinstance(value, torch.Tensor):
            assert found[name].dtype == value.dtype
            assert torch.equal(found[name], value)
        else:
            assert found[name] == value


def test_all_tensors_are_one() -> None:
    packed = pack(batch())
    tensors = [each for each in packed.batch().values() if isinstance(each, torch.Tensor)]
    assert {each.untyped_storage().data_ptr() for each in tensors} == {
        packed.data.untyped_storage().data_ptr()
    }
    assert all(place.start % ALIGNED == 0 for place in packed.places)


def test_an_error_stays_one() -> None:
    error = ElfError("a shard is cut")
    assert pack(error) is error


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_once_all_parts_are() -> None:
    found = pack(batch()).pin_memory().batch()
    tensors = [each for each in found.values() if torch.is_tensor(each) and each.numel()]
    assert all(each.is_pinned() for each in tensors)
