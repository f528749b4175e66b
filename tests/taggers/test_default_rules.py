"""The shipped rules are the defaults, and the defaults are in the shipped YAML."""

import yaml

from elf.resources import shipped
from elf.taggers import NoiseRules, Rules, StyleRules, Vocabulary


def test_the_realistic_config_writes_out_the_defaults():
    config = yaml.safe_load(shipped("configs/tag/realistic.yaml").read_text())
    values = config["model"]["init_args"]["rules"]
    tuples = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    for key, kind in {"style": StyleRules, "noise": NoiseRules}.items():
        tuples[key] = kind(**{k: tuple(v) if isinstance(v, list) else v
                              for k, v in values[key].items()})  # fmt: skip
    tuples["vocabularies"] = {
        name: Vocabulary(tuple(value["tags"]), value["shift"], tuple(value["exceptions"]))
        for name, value in values["vocabularies"].items()
    }
    assert Rules(**tuples) == Rules()
    assert tuples.keys() == Rules.__dataclass_fields__.keys()


def test_the_users_values():
    rules = Rules()
    assert (rules.threshold, rules.max_tags, rules.trigger) == (0.28, 80, "wood_elf")
    assert (rules.style.weight, rules.style.max_tags) == (0.65, 5)
    assert rules.style.prefixes == ("anime", "cartoon", "lineart")
