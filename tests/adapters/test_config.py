"""The values of ``model.adapter``: what makes no sense, and what survives being written down."""

import json
import re

import pytest
from torch import nn

from elf import adapters
from elf.adapters import AdapterConfig, AdapterGroup
from elf.errors import ElfError


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AdapterConfig(rank=0), "model.adapter.rank: 0 is not a rank"),
        (AdapterConfig(alpha=0), "model.adapter.alpha: 0 must be above 0"),
        (AdapterConfig(dropout=1), "model.adapter.dropout: 1 must be in [0, 1)"),
        (AdapterConfig(axis="input"), "input is an axis of DoRA's norms; set kind: dora"),
        (AdapterConfig(init_samples=0), "init_samples: 0 must be at least 1; 64 is usual"),
        (AdapterConfig(init="loftq"), "init: loftq is not offered: it repairs a quantised base"),
        (AdapterConfig(init="mica"), "init: mica is not offered: it freezes B"),
        (AdapterConfig(init="gausian"), "'gausian' is none of kaiming, gaussian, orthogonal, "),
        (AdapterConfig(init="gausian"), "; did you mean gaussian?"),
        (AdapterConfig(init="pissa_niter_N"), "'pissa_niter_N' is none of"),
        (AdapterConfig(init="orthogonal", rank=3), "orthogonal needs even ranks, not 3"),
        (AdapterConfig(groups=[AdapterGroup("a", -1)]), "model.adapter.groups[0].rank: -1 is not"),
        (
            AdapterConfig(groups=[AdapterGroup("a"), AdapterGroup("b", alpha=-2)]),
            "model.adapter.groups[1].alpha: -2 must be above 0",
        ),
        (AdapterConfig(groups=[AdapterGroup("a", lr_scale=-1)]), "lr_scale: -1 must not be below"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_loaded(
    config: AdapterConfig, message: str
) -> None:
    with pytest.raises(ElfError, match=re.escape(message)) as error:
        adapters.validate(config)
    assert "\n" not in str(error.value)
    with pytest.raises(ElfError, match=re.escape(message)):
        adapters.inject(nn.Linear(2, 2), config)


def test_it_is_plain_values_that_give_it_back() -> None:
    config = AdapterConfig("dora", 8, 4, ["a"], 0.1, "input", True, "eva", 16, "attention")
    config.groups = [AdapterGroup("to_q", 4, 2.0, 0.5)]
    described = json.loads(json.dumps(adapters.describe(config)))
    assert AdapterConfig(**described) == config
    assert described == adapters.describe(config)


def test_a_yaml_gives_it() -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_argument("--adapter", type=AdapterConfig, default=AdapterConfig())
    text = """
    adapter:
      kind: dora
      axis: input
      targets: ["up_blocks.1.*"]
      text_targets: attention+feedforward
      groups:
        - {pattern: to_q, rank: 4}
        - {pattern: "text_encoder.*", lr_scale: 0.5}
    """
    found = parser.instantiate(parser.parse_string(text)).adapter
    groups = [AdapterGroup("to_q", 4), AdapterGroup("text_encoder.*", lr_scale=0.5)]
    assert found == AdapterConfig(
        "dora",
        axis="input",
        targets=["up_blocks.1.*"],
        text_targets="attention+feedforward",
        groups=groups,
    )
