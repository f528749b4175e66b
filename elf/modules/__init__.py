"""What is trained, evaluated or predicted with, as Lightning modules."""

from elf.modules.diffusion import DiffusionModule
from elf.modules.evaluation import ImageEvaluation
from elf.modules.language import LanguageModule
from elf.modules.tagger import TaggerModule
from elf.modules.textevaluation import TextEvaluation
from elf.modules.textgenerator import TextGenerator

__all__ = [
    "DiffusionModule",
    "ImageEvaluation",
    "LanguageModule",
    "TaggerModule",
    "TextEvaluation",
    "TextGenerator",
]
