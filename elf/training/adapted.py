"""Networks that carry an adapter, and what is asked of all of them together."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from elf import adapters


class AdaptedNetworks(nn.Module):
    """A base's networks, the adapter in them."""

    @property
    @abstractmethod
    def parts(self) -> dict[str, nn.Module]:
        """The networks that carry an adapter, by the names that its tensors have in front."""

    def trained(self) -> dict[str, Tensor]:
        """Return the adapter's tensors by their names in files, with their part (not copied)."""
        return {
            f"{part}.{name}": value
            for part, network in self.parts.items()
            for name, value in adapters.adapter_state(network).items()
        }

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the adapter's parameters."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def refresh_norms(self) -> None:
        """Compute DoRA's norms again where the weights are others now."""
        for network in self.parts.values():
            adapters.refresh_norms(network, stale_alone=True)

    def load_trained(self, state: Mapping[str, Tensor]) -> None:
        """Copy the adapter's tensors from what ``trained`` returned.

        Raises:
            ElfError: If a tensor is missing, unknown, or of another shape.
        """
        states: Mapping[Any, Mapping[str, Tensor]] = adapters.by_part(state)
        for part, network in self.parts.items():
            adapters.load_adapter_state(network, states.get(part, {}))

    @contextmanager
    def adapter_off(self) -> Iterator[None]:
        """The base for as long as it lasts."""
        with ExitStack() as stack:
            for network in self.parts.values():
                stack.enter_context(adapters.disabled(network))
            yield
