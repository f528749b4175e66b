"""peft's layers with Elf's forward pass: DoRA in closed form, and updates less what they began as.

They are peft's classes in all else, so that what diffusers and peft do with such layers works:
names, files, switching, merging.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from peft.tuners.lora.layer import Conv2d, Linear, LoraVariant
from torch import Tensor, nn

from elf.adapters import dora
from elf.adapters.factored import NAME, base_weight, delta_weight, factors
from elf.adapters.norms import WeightNorm, closed_form, dora_layers
from elf.adapters.product import updated_output, with_update
from elf.autocasting import computing_type


class Magnitude(nn.Module):
    """Holds m under the name that peft gives it in files: ``lora_magnitude_vector.weight``."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


class ClosedForm(LoraVariant):  # type: ignore[misc]  # peft has no types
    """What peft asks of a kind of adapter: how it begins, and how it is merged."""

    @staticmethod
    def init(module: Any, adapter_name: str, **kwargs: Any) -> None:
        """Give a layer its magnitudes, in peft's shape; they are set when A and B are."""
        weight = base_weight(module)
        channels = weight.shape[0 if module.axis == "output" else 1]
        shape = (channels,) if weight.dim() == 2 else (1, channels, 1, 1)
        magnitude = torch.ones(shape, device=weight.device)
        module.lora_magnitude_vector[adapter_name] = Magnitude(magnitude)

    @staticmethod
    def merge_safe(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """Return W', as `delta_weight` has it."""
        module._cache_store("unmerged", orig_weight.detach().clone())
        return (orig_weight.float() + delta_weight(module)).to(orig_weight.dtype)

    @staticmethod
    def merge_unsafe(module: Any, active_adapter: str, orig_weight: Tensor) -> None:
        """Put W' in the weight's place."""
        orig_weight.data = ClosedForm.merge_safe(module, active_adapter, orig_weight)

    @staticmethod
    def unmerge(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """Return the weight as it was, bit for bit."""
        unmerged: Tensor = module._cache_pop("unmerged")
        return unmerged


class _OwnForward:
    """Takes peft's forward pass over where the adapter is on and not merged."""

    convolution: ClassVar[bool] = False
    adapted: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's output, in the frozen layer's type."""
        layer: Any = self
        if layer.disable_adapters or layer.merged or NAME not in layer.active_adapters:
            unchanged: Tensor = super().forward(x, *args, **kwargs)  # type: ignore[misc]
            return unchanged
        return self.adapted(x)

    def lowered(self, x: Tensor, a: Tensor) -> Tensor:
        """Return A x, in the type that the frozen layer computes with."""
        layer: Any = self
        a = a.to(computing_type(x))
        if not self.convolution:
            return nn.functional.linear(x, a)
        base = layer.get_base_layer()
        return nn.functional.conv2d(x, a, None, base.stride, base.padding, base.dilation)

    def dropped(self, x: Tensor) -> Tensor | None:
        """Return x with elements dropped, or None where nothing is dropped."""
        layer: Any = self
        result: Tensor | None = layer.lora_dropout[NAME](x) if self.drops else None
        return result

    @property
    def drops(self) -> bool:
        """Whether elements of the adapter's input are dropped now."""
        layer: Any = self
        return layer.training and not isinstance(layer.lora_dropout[NAME], nn.Identity)


class LoraLinear(_OwnForward, Linear):  # type: ignore[misc]
    """A LoRA layer; where it began at some A₀ and B₀ its update is s (BA − B₀A₀)."""

    def adapted(self, x: Tensor) -> Tensor:
        """Return W₀x + b + s BA x."""
        base, scale = self.get_base_layer(), self.scaling[NAME]
        dropped = self.dropped(x)
        a, b = factors(self)
        if dropped is not None:
            return with_update(base(x), dropped, a, b, scale)
        return updated_output(base, x, a, b, scale)


class LoraConv2d(_OwnForward, Conv2d):  # type: ignore[misc]
    """A convolution with LoRA."""

    convolution = True

    def adapted(self, x: Tensor) -> Tensor:
        """Return W₀x + b + s B(A x)."""
        base, scale = self.get_base_layer(), self.scaling[NAME]
        dropped = self.dropped(x)
        a, b = factors(self)
        low = self.lowered(x if dropped is None else dropped, a)
        result: Tensor = base(x)
        return result + dora.raised(low, scale * b, None, convolution=True)


class _Dora(_OwnForward, WeightNorm):
    axis: ClassVar[dora.Axis]

    @property
    def lora_variants(self) -> dict[tuple[str, ...], Any]:
        """What peft looks a kind of adapter up in."""
        return {(): None, ("use_dora",): ClosedForm}

    def gain(self) -> Tensor:
        """Return g = m / n, in float32."""
        return self.magnitude() / self.norm()

    def adapted(self, x: Tensor) -> Tensor:
        layer: Any = self
        base, scale = layer.get_base_layer(), layer.scaling[NAME]
        dropped = self.dropped(x)
        a, b = factors(layer)
        if dropped is None and not self.convolution and self.axis == "output":
            output = updated_output(base, x, a, b, scale)
            norm, lost = self.norm(), self.lost(output.dtype)
            return dora.scaled(output, self.magnitude(), norm, base.bias, lost)
        gain = self.gain()
        if dropped is None and not self.convolution:
            return updated_output(base, dora.input_axis(x, gain, False), a, b, scale)
        if self.axis == "output":
            result: Tensor = base(x)
            low = self.lowered(x if dropped is None else dropped, a)
            other = None if dropped is None else base(dropped)
            whole = dora.output_axis(
                result, low, b, gain, scale, base.bias, self.convolution, other
            )
        else:
            scaled = dora.input_axis(x, gain, self.convolution, dropped)
            result = base(scaled)
            if dropped is not None:
                scaled = dora.input_axis(dropped, gain, self.convolution)
            low = self.lowered(scaled, a)
            whole = result + dora.raised(low, scale * b, None, self.convolution)
        return whole.to(result.dtype)


class OutputLinear(_Dora, Linear):  # type: ignore[misc]
    """A linear layer with DoRA over its rows."""

    axis = "output"


class InputLinear(_Dora, Linear):  # type: ignore[misc]
    """A linear layer with DoRA over its columns."""

    axis = "input"


class OutputConv2d(_Dora, Conv2d):  # type: ignore[misc]
    """A convolution with DoRA over its output channels."""

    axis = "output"
    convolution = True


class InputConv2d(_Dora, Conv2d):  # type: ignore[misc]
    """A convolution with DoRA over its input channels."""

    axis = "input"
    convolution = True


def layer_classes(kind: str, axis: dora.Axis) -> dict[type, type]:
    """Return the class of an adapted layer by that of the frozen one."""
    if kind == "dora":
        if axis == "output":
            return {nn.Linear: OutputLinear, nn.Conv2d: OutputConv2d}
        return {nn.Linear: InputLinear, nn.Conv2d: InputConv2d}
    return {nn.Linear: LoraLinear, nn.Conv2d: LoraConv2d}


def set_magnitudes(network: nn.Module) -> None:
    """Let each magnitude be its norm, so that the gain is exactly 1."""
    adapted = dora_layers(network)
    with torch.no_grad():
        for layer, norm in zip(adapted, closed_form(adapted), strict=True):
            owner: Any = layer
            weight = owner.lora_magnitude_vector[NAME].weight
            weight.copy_(norm.view_as(weight))
