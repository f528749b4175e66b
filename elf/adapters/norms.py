"""When DoRA's norms are computed: once an optimizer step, for layers of one shape at once.

A layer by itself computes its norm in every forward pass, so that it is always right. Whoever
promises by `reuse_norms` that an optimizer changes the weights lets them be computed right after
each of its steps instead, into tensors that stay where they are: micro-batches, recomputation under
gradient checkpointing and captured graphs read them there.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from elf.adapters import dora
from elf.adapters.factored import (
    INITIAL_A,
    NAME,
    axis_of,
    base_weight,
    computed_in,
    factors,
    layers,
)
from elf.autocasting import without_autocast


class WeightNorm:
    """The norm n of one DoRA layer, for the layer's class to inherit."""

    _reuse: "_Reuse | None" = None
    _base_norm: Tensor | None = None  # c₀
    _base_state: tuple[int, ...] = ()
    _norm: Tensor | None = None
    _lost: Tensor | None = None
    _norm_state: tuple[float, ...] = ()

    def norm(self) -> Tensor:
        """Return n, (channels,) in float32, without a gradient."""
        if self._reuse is None:
            return closed_form([self])[0]
        # A compiled graph cannot ask: there the promise of `reuse_norms` alone counts.
        compiling = torch.compiler.is_compiling()
        if self._norm is None or not (compiling or self._norm_state == self._state()):
            self._reuse.refresh()
        assert self._norm is not None
        return self._norm

    def magnitude(self) -> Tensor:
        """Return m, (channels,) in float32."""
        layer: Any = self
        magnitude: Tensor = layer.lora_magnitude_vector[NAME].weight
        return magnitude.flatten()

    def lost(self, dtype: torch.dtype) -> Tensor | None:
        """Return 1 − m / n as it was computed with the norm, in a type; None if it was not."""
        known = None if self._reuse is None else self._lost
        return known if known is not None and known.dtype == dtype else None

    def base_norm_squared(self) -> Tensor:
        """Return c₀, computed once for a frozen weight."""
        state = _seen(self._weight())
        if self._base_norm is None or self._base_state != state:
            self._base_norm = dora.norm_squared(base_weight(self), axis_of(self))
            self._base_state = state
        return self._base_norm

    def _weight(self) -> Tensor:
        layer: Any = self
        weight: Tensor = layer.get_base_layer().weight
        return weight

    def _state(self) -> tuple[float, ...]:
        """Return what changes with the norm, as far as a version counter tells."""
        layer: Any = self
        a, b = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
        m = layer.lora_magnitude_vector[NAME].weight
        return (*_seen(a), *_seen(b), *_seen(m), *_seen(self._weight()), layer.scaling[NAME])


def _seen(tensor: Tensor) -> tuple[int, ...]:
    if torch.compiler.is_compiling():
        return ()
    return tensor.data_ptr(), tensor._version


@contextmanager
def _outside_autograd(device: torch.device) -> Iterator[None]:
    # Not as inference tensors, which autograd would refuse later on; in float32 under autocast.
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        without_autocast(device),
    ):
        yield


def closed_form(adapted: Sequence[WeightNorm]) -> list[Tensor]:
    """Return the norms n of layers; those of one shape are computed together.

    Nothing waits for the device or depends on a tensor's value, so a CUDA graph can hold it.
    """
    shapes: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for index, layer in enumerate(adapted):
        owner: Any = layer
        with _outside_autograd(layer._weight().device):
            parts.append((layer.base_norm_squared(), *factors(owner)))
        _, a, b = parts[-1]
        shapes[a.shape, b.shape, axis_of(owner), owner.scaling[NAME], a.device].append(index)
    result: dict[int, Tensor] = {}
    for (_, _, axis, scale, device), indices in shapes.items():
        with _outside_autograd(device):
            # One product a layer: to stack the frozen weights would be to copy them all.
            shared = [
                dora.overlap(base_weight(adapted[i]), parts[i][1], parts[i][2], axis)
                for i in indices
            ]
            c0, a, b = (torch.stack([parts[i][part] for i in indices]) for part in range(3))
            found = dora.norms(c0, torch.stack(shared), a, b, scale, axis)
        result |= dict(zip(indices, found.unbind(), strict=True))
    return [result[index] for index in range(len(adapted))]


class _Reuse:
    """The DoRA layers of a network whose norms are kept, and how they are brought up to date."""

    def __init__(self, adapted: list[WeightNorm]) -> None:
        self.adapted = adapted
        self._tables: dict[tuple[Any, ...], tuple[tuple[int, ...], Any]] = {}

    def refresh(self) -> None:
        """Compute all norms; where there are some already, their tensors get the new values."""
        with torch.inference_mode(False), torch.no_grad():
            self._make_places()
            quick, others = list[WeightNorm](), list[WeightNorm]()
            for layer in self.adapted:
                (quick if _has_kernel(layer) else others).append(layer)
            self._refresh_quickly(quick)
            if others:
                self._refresh(others, closed_form(others))
            for layer in self.adapted:
                layer._norm_state = layer._state()

    def _make_places(self) -> None:
        """Give each layer room for its norm and 1 − m / n: side by side, as layers are."""
        magnitudes = [layer.magnitude() for layer in self.adapted]
        sizes = [len(each) for each in magnitudes]
        types = [computed_in(_base(layer)) for layer in self.adapted]
        precise = [torch.promote_types(kind, torch.float32) for kind in types]
        for name, kinds in (("_norm", precise), ("_lost", types)):
            wanted = [(each.device, kind) for each, kind in zip(magnitudes, kinds, strict=True)]
            known = [getattr(layer, name) for layer in self.adapted]
            if wanted == [(each.device, each.dtype) for each in known if each is not None]:
                continue
            places: Sequence[Tensor]
            if len(set(wanted)) == 1:
                device, dtype = wanted[0]
                room = torch.empty(sum(sizes), device=device, dtype=dtype)
                places = torch.split(room, sizes)
            else:
                places = [
                    torch.empty(size, device=device, dtype=dtype)
                    for size, (device, dtype) in zip(sizes, wanted, strict=True)
                ]
            for layer, place in zip(self.adapted, places, strict=True):
                setattr(layer, name, place)

    def _refresh(self, layers: list[WeightNorm], norms: list[Tensor]) -> None:
        """Write norms, and 1 − m / n in the types that the layers compute in, in a few kernels."""
        torch._foreach_copy_([_known(layer._norm) for layer in layers], norms)
        lost = torch._foreach_div([layer.magnitude() for layer in layers], norms)
        torch._foreach_mul_(lost, -1)
        torch._foreach_add_(lost, 1)
        torch._foreach_copy_([_known(layer._lost) for layer in layers], lost)

    def _refresh_quickly(self, layers: list[WeightNorm]) -> None:
        """Do the same in one kernel for all layers of a kind."""
        kinds: dict[tuple[Any, ...], list[tuple[Tensor, ...]]] = defaultdict(list)
        for layer in layers:
            weight, magnitude = layer._weight(), layer.magnitude()
            a, b = factors(layer)
            c0, norm, lost = layer.base_norm_squared(), _known(layer._norm), _known(layer._lost)
            owner: Any = layer
            kind = (weight.device, weight.dtype, lost.dtype, len(a), owner.scaling[NAME])
            kinds[kind].append((weight, a, b, c0, magnitude, norm, lost))
        for kind, tensors in kinds.items():
            from elf.adapters.dora_kernels import NormTable

            places = tuple(each.data_ptr() for row in tensors for each in row)
            if self._tables.get(kind, ((), None))[0] != places:
                self._tables[kind] = (places, NormTable(tensors, kind[-1]))
            self._tables[kind][1].refresh()

    def stale(self) -> bool:
        """Whether a version counter tells that a norm is not the weights' any more."""
        return any(each._norm is None or each._norm_state != each._state() for each in self.adapted)

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a copy of the network keep nothing: no optimizer tells it when to compute."""
        return type(None), ()


def _base(layer: WeightNorm) -> nn.Module:
    owner: Any = layer
    base: nn.Module = owner.get_base_layer()
    return base


def _known(tensor: Tensor | None) -> Tensor:
    assert tensor is not None  # there are places by now
    return tensor


def _has_kernel(layer: WeightNorm) -> bool:
    """Whether one kernel computes a layer's norm: a plain linear layer's, with plain factors."""
    weight = layer._weight()
    plain = type(_base(layer)) is nn.Linear and axis_of(layer) == "output"
    own = not hasattr(layer, INITIAL_A)  # else factors are made for each use
    return plain and own and weight.is_contiguous() and dora.has_kernels(weight)


def dora_layers(network: nn.Module) -> list[WeightNorm]:
    """Return a network's layers with closed-form DoRA."""
    return [layer for layer in layers(network) if isinstance(layer, WeightNorm)]


def reuse_norms(network: nn.Module, optimizer: Optimizer) -> None:
    """Compute a network's DoRA norms after each step of an optimizer instead of in each pass.

    What changes the weights otherwise is seen by their version counters: loading a state, another
    strength, in-place edits, schedule-free's swaps. Edits through ``.data`` are not seen, unless
    they are the optimizer's own; call `refresh_norms` after them, as before the replay of a
    captured graph. A network without DoRA needs nothing of this.
    """
    adapted = dora_layers(network)
    if not adapted:
        return
    reuse = _Reuse(adapted)
    for layer in adapted:
        layer._reuse = reuse
    reuse.refresh()
    optimizer.register_step_post_hook(lambda *_: reuse.refresh())


def refresh_norms(network: nn.Module, stale_alone: bool = False) -> None:
    """Compute again the norms that a network keeps, if it keeps any.

    Args:
        network: With an adapter.
        stale_alone: Only where a version counter tells that something has changed since. A layer
            sees that by itself, but in a captured graph.
    """
    for reuse in {id(layer._reuse): layer._reuse for layer in dora_layers(network)}.values():
        if reuse is not None and (not stale_alone or reuse.stale()):
            reuse.refresh()
