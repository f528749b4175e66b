"""Where batches come from."""

from elf.datamodules.evaluation import EvaluationSet
from elf.datamodules.images import PictureFolder
from elf.datamodules.prompts import PromptDataModule
from elf.datamodules.shards import ShardDataModule
from elf.datamodules.text import TextDataModule
from elf.datamodules.textevaluation import TextEvaluationSet

__all__ = [
    "EvaluationSet",
    "PictureFolder",
    "PromptDataModule",
    "ShardDataModule",
    "TextDataModule",
    "TextEvaluationSet",
]
