"""What is trained, evaluated or predicted with, as Lightning modules."""

from elf.modules.diffusion import DiffusionModule
from elf.modules.evaluation import ImageEvaluation
from elf.modules.language import LanguageModule
from elf.modules.tagger import TaggerModule

__all__ = ["DiffusionModule", "ImageEvaluation", "LanguageModule", "TaggerModule"]
