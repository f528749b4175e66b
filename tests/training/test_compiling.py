"""A compiled network trains as it does uncompiled, and is what it was for all else."""

import copy
import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elf import adapters
from elf.adapters import AdapterConfig
from elf.errors import ElfError
from elf.tiny import base
from elf.training import compiling
from elf.training.compiling import Scope, compile_network, uncompiled

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def adapted(kind: str) -> Any:
    torch.manual_seed(0)
    unet = base.unet()
    adapters.inject(unet, AdapterConfig(kind, 4))  # type: ignore[arg-type]
    for name, parameter in unet.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    trained = [p for p in unet.parameters() if p.requires_grad]
    adapters.reuse_norms(unet, torch.optim.SGD(trained, lr=0.1))
    return unet.train()


def gradients(unet: Any) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 8, 8, generator=draw)
    text = torch.randn(2, 77, unet.config.cross_attention_dim, generator=draw)
    output = unet(latents, torch.tensor([3, 500]), text, return_dict=False)[0]
    trained = [p for p in unet.parameters() if p.requires_grad]
    return [output, *torch.autograd.grad(output.square().mean(), trained)]


@pytest.mark.parametrize(
    ("scope", "kind"),
    [
        pytest.param("blocks", "lora", marks=pytest.mark.slow),
        pytest.param("blocks", "dora", marks=pytest.mark.slow),
        pytest.param("full", "lora", marks=pytest.mark.slow),
    ],
)
def test_gradients_are_those_of_the_network_as_it_is_written(scope: Scope, kind: str) -> None:
    """Without inductor, whose code takes minutes to compile for a CPU."""
    plain = adapted(kind)
    compiled = copy.deepcopy(plain)
    compile_network(compiled, scope, torch.device("cpu"), backend="aot_eager")
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for one, other in zip(gradients(compiled), gradients(plain), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    assert compiled_frames() > 0
    before = compiled_frames()
    with torch.no_grad(), uncompiled():
        compiled(
            torch.randn(1, 4, 16, 8), 3, torch.randn(1, 77, compiled.config.cross_attention_dim)
        )
    assert compiled_frames() == before


def compiled_frames() -> int:
    counters: Any = torch._dynamo.utils.counters
    return int(counters["stats"]["unique_graphs"])


def test_a_gpu_without_triton_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ElfError, match=r"model.torch_compile needs Triton: pip install triton \("):
        compile_network(nn.Identity(), "full", torch.device("cuda"))


def test_the_cost_is_named_with_the_place_where_it_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiling.notice("full") == (
        "Compiling the whole UNet: two to five minutes for each shape of a bucket's batches when "
        f"it first comes; later runs find most of it in {tmp_path / 'elf' / 'inductor'}"
    )
