"""Models that describe pictures, and the rules that make labels of what they say.

Nothing here knows Lightning, and transformers and onnxruntime are imported when a model is made:
loader workers, which need the preprocessing alone, start fast.
"""

from elf.taggers.florence import FlorenceCaptioner, FlorenceConfig
from elf.taggers.preprocess import FlorencePreprocess, Preprocess, WDPreprocess
from elf.taggers.rules import Rules, Selection, Selector, StyleRules
from elf.taggers.tags import TagList
from elf.taggers.wd import WDConfig, WDTagger

__all__ = [
    "FlorenceCaptioner",
    "FlorenceConfig",
    "FlorencePreprocess",
    "Preprocess",
    "Rules",
    "Selection",
    "Selector",
    "StyleRules",
    "TagList",
    "WDConfig",
    "WDPreprocess",
    "WDTagger",
]
