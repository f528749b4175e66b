"""Models that describe pictures, and the rules that make labels of what they say.

Nothing here knows Lightning, and transformers, onnxruntime and timm are imported when a model is
made: what needs the rules or the preprocessing alone starts fast.
"""

from elf.taggers.florence import FlorenceCaptioner, FlorenceConfig
from elf.taggers.microbatch import Tagger
from elf.taggers.preprocess import FlorencePreprocess, Preprocess, WDPreprocess
from elf.taggers.rules import NoiseRules, Rules, StyleRules, Vocabulary, WeightRule
from elf.taggers.select import Selection, Selector
from elf.taggers.tags import TagList
from elf.taggers.wd import WDConfig, WDTagger
from elf.taggers.wd_torch import TorchTagger

__all__ = [
    "FlorenceCaptioner",
    "FlorenceConfig",
    "FlorencePreprocess",
    "NoiseRules",
    "Preprocess",
    "Rules",
    "Selection",
    "Selector",
    "StyleRules",
    "TagList",
    "Tagger",
    "TorchTagger",
    "Vocabulary",
    "WDConfig",
    "WDPreprocess",
    "WDTagger",
    "WeightRule",
]
