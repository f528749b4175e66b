"""KID and FID against torchmetrics, CMMD against loops, unbiasedness by simulation."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import linalg
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from elf.errors import ElfError
from elf.metrics import FID_MINIMUM, cmmd, distribution, fid, kid

Distance = Callable[[np.ndarray, np.ndarray], float]


class Through(torch.nn.Module):
    """Takes features for pictures."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def normal(rows: int, width: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, size=(rows, width))


def looped(
    first: np.ndarray,
    second: np.ndarray,
    kernel: Callable[[np.ndarray, np.ndarray], float],
    biased: bool = False,
) -> float:
    """Squared MMD, pair by pair; ``biased`` keeps each row's kernel with itself."""

    def within(side: np.ndarray) -> float:
        pairs = [
            kernel(x, y) for i, x in enumerate(side) for j, y in enumerate(side) if biased or i != j
        ]
        return float(np.mean(pairs))

    across = float(np.mean([kernel(x, y) for x in first for y in second]))
    return within(first) + within(second) - 2 * across


def cubic(x: np.ndarray, y: np.ndarray) -> float:
    return float((x @ y / len(x) + 1) ** 3)


def gaussian(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    return float(1000 * np.exp(-((x - y) ** 2).sum() / (2 * 10**2)))


@pytest.mark.filterwarnings("ignore:Metric .Kernel Inception Distance. will save all")
def test_kid_is_that_of_torchmetrics() -> None:
    pictures, references = normal(60, 12, 0), normal(60, 12, 1, shift=0.5)
    theirs = KernelInceptionDistance(feature=Through(12), subsets=1, subset_size=60)
    theirs.set_dtype(torch.float64)
    theirs.update(torch.from_numpy(references), real=True)
    theirs.update(torch.from_numpy(pictures), real=False)
    expected = float(theirs.compute()[0])
    assert expected > 0.1
    assert kid(pictures, references) == pytest.approx(expected, rel=1e-10)


def test_fid_is_that_of_torchmetrics() -> None:
    mixing = normal(6, 6, 5)
    pictures = normal(FID_MINIMUM, 6, 0) @ mixing
    references = normal(FID_MINIMUM + 100, 6, 1, shift=0.5)
    theirs = FrechetInceptionDistance(feature=Through(6))
    theirs.update(torch.from_numpy(references), real=True)
    theirs.update(torch.from_numpy(pictures), real=False)
    assert fid(pictures, references) == pytest.approx(float(theirs.compute()), rel=1e-9)
    first, second = np.cov(pictures.T), np.cov(references.T)
    by_root = np.trace(first + second - 2 * linalg.sqrtm(first @ second).real)
    by_root += ((pictures.mean(0) - references.mean(0)) ** 2).sum()
    assert fid(pictures, references) == pytest.approx(by_root, rel=1e-9)


@pytest.mark.parametrize(("distance", "kernel"), [(kid, cubic), (cmmd, gaussian)])
@pytest.mark.parametrize("sizes", [(2, 2), (2, 9), (11, 5)])
def test_all_pairs_but_those_with_itself_count(
    distance: Distance, kernel: Callable[..., float], sizes: tuple[int, int]
) -> None:
    pictures, references = normal(sizes[0], 7, 0), normal(sizes[1], 7, 1, shift=0.3)
    assert distance(pictures, references) == pytest.approx(
        looped(pictures, references, kernel), rel=1e-9
    )


@pytest.mark.parametrize(("distance", "kernel"), [(kid, cubic), (cmmd, gaussian)])
def test_equal_distributions_are_at_zero_on_average(
    distance: Distance, kernel: Callable[..., float]
) -> None:
    """The biased estimator is not: at 20 pictures its mean is many standard errors above 0."""
    pairs = [(normal(20, 6, 2 * n), normal(20, 6, 2 * n + 1)) for n in range(400)]
    found = np.array([distance(*pair) for pair in pairs])
    error = found.std(ddof=1) / np.sqrt(len(found))
    assert abs(found.mean()) < 3 * error
    assert found.min() < 0
    biased = np.mean([looped(*pair, kernel, biased=True) for pair in pairs[:10]])
    assert biased > 20 * error


def test_cmmd_sees_directions_alone() -> None:
    pictures, references = normal(30, 5, 0), normal(20, 5, 1, shift=1.0)
    lengths = np.random.default_rng(2).uniform(0.1, 9, size=(30, 1))
    expected = cmmd(pictures, references)
    assert expected > 1
    assert cmmd(lengths * pictures, references) == pytest.approx(expected, rel=1e-9)
    assert kid(lengths * pictures, references) != pytest.approx(kid(pictures, references), rel=0.1)


def test_cmmd_of_opposite_points_by_hand() -> None:
    """‖x − y‖² = 4 across and 0 within: 2000 (1 − exp(−4 / 200))."""
    pictures, references = np.tile([[1.0, 0]], (3, 1)), np.tile([[-2.0, 0]], (4, 1))
    assert cmmd(pictures, references) == pytest.approx(2000 * -np.expm1(-0.02))


def test_constant_pictures() -> None:
    same = np.ones((4, 3))
    assert kid(same, same) == pytest.approx(0, abs=1e-12)
    assert cmmd(same, same) == pytest.approx(0, abs=1e-9)
    assert fid(np.ones((FID_MINIMUM, 3)), np.zeros((FID_MINIMUM, 3))) == pytest.approx(3)


def test_fid_of_one_feature_by_hand() -> None:
    """(μ₁ − μ₂)² + (σ₁ − σ₂)², the sides −1, 1 and 0, 4 in halves."""
    sides = [np.tile([[low], [high]], (FID_MINIMUM, 1)) for low, high in ((-1.0, 1.0), (0.0, 4.0))]
    assert fid(*sides) == pytest.approx(4 + 1, rel=1e-3)  # the covariance divides by N − 1


def test_fid_of_equal_sides_is_zero_and_no_less() -> None:
    pictures = normal(FID_MINIMUM, 20, 0) @ normal(20, 40, 1)  # of rank 20
    assert fid(pictures, pictures) >= 0
    assert fid(pictures, pictures) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("sizes", [(FID_MINIMUM - 1, FID_MINIMUM), (FID_MINIMUM, 40)])
def test_fid_of_too_few_pictures_is_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ElfError) as caught:
        fid(*(np.zeros((rows, 2)) for rows in sizes))
    assert str(caught.value) == (
        f"FID needs 2048 pictures a side and has {min(sizes)}; read KID or CMMD instead"
    )


@pytest.mark.parametrize(("distance", "name"), [(kid, "KID"), (cmmd, "CMMD")])
@pytest.mark.parametrize("sizes", [(1, 5), (5, 1)])
def test_one_picture_has_no_pair(distance: Distance, name: str, sizes: tuple[int, int]) -> None:
    with pytest.raises(ElfError) as caught:
        distance(*(np.ones((rows, 2)) for rows in sizes))
    assert str(caught.value) == (
        f"{name} needs 2 pictures a side and has {sizes[0]} against {sizes[1]}; "
        "generate more, or give more references"
    )


@pytest.mark.parametrize("distance", [kid, cmmd, fid])
def test_the_side_that_cannot_be_used_is_named(distance: Distance) -> None:
    good, bad = np.ones((FID_MINIMUM, 2)), np.ones((FID_MINIMUM, 2))
    bad[7, 1] = np.nan
    with pytest.raises(ElfError, match=r"^pictures: the embedding of row 7 holds NaN"):
        distance(bad, good)
    with pytest.raises(ElfError, match=r"^references: the embedding of row 7 holds NaN"):
        distance(good, bad)


@pytest.mark.parametrize("distance", [kid, cmmd])
def test_half_precision_is_widened_before_it_is_multiplied(distance: Distance) -> None:
    pictures, references = (normal(40, 64, seed).astype(np.float16) for seed in (0, 1))
    assert distance(pictures, references) == distance(
        pictures.astype(np.float64), references.astype(np.float64)
    )


@pytest.mark.parametrize("distance", [kid, cmmd])
def test_blocks_change_nothing_and_bound_the_memory(
    distance: Distance, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, references = normal(1501, 8, 0), normal(1200, 8, 1, shift=0.2)  # a last block of 1
    whole = distance(pictures, references)
    monkeypatch.setattr(distribution, "BLOCK", 50)
    tracemalloc.start()
    in_blocks = distance(pictures, references)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert in_blocks == pytest.approx(whole, rel=1e-9)
    assert peak < 1200 * 1500 * 8 / 2  # bytes; a whole kernel matrix is twice that
