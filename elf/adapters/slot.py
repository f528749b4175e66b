"""A place for one adapter at a time in networks that are used, not trained."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from elf import adapters
from elf.adapters import AdapterConfig, Part


class AdapterSlot:
    """Networks with at most one adapter in them.

    The base's own weights are never changed: an adapter is put around its layers, and taken out.
    So what is in it depends on the last call alone, bit for bit.

    Args:
        networks: By their names in a pipeline, in evaluation mode.
    """

    def __init__(self, networks: Mapping[Part, nn.Module]) -> None:
        self.networks = dict(networks)
        self._inside: str | None = None

    def empty(self) -> None:
        """Let the networks be the base."""
        for network in self.networks.values():
            adapters.remove(network)
        self._inside = None

    def hold(
        self, name: str, config: AdapterConfig, state: Mapping[str, Tensor], strength: float = 1.0
    ) -> None:
        """Let the networks have an adapter at a strength; at 0 be the base, DoRA's norms too.

        Args:
            name: Of the adapter: the same one is not put in again.
            config: What was trained.
            state: Its tensors by ``{part}.{name in files}``.
            strength: Factor on its update.

        Raises:
            ElfError: If it does not fit the networks, which then have none.
        """
        if name != self._inside or strength == 0:
            self.empty()
        if strength == 0:
            return
        if self._inside is None:
            self._put_in(name, config, state)
        for network in self.networks.values():
            adapters.set_strength(network, strength)

    def _put_in(self, name: str, config: AdapterConfig, state: Mapping[str, Tensor]) -> None:
        states = adapters.by_part(state)
        networks = {part: self.networks[part] for part in states}
        try:
            adapters.inject_all(networks, replace(config, dropout=0.0))
            for part, network in networks.items():
                adapters.load_adapter_state(network, states[part])
                network.eval()
        except BaseException:
            self.empty()  # half of one is none
            raise
        self._inside = name
