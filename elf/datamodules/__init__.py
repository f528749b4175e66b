"""Where batches come from."""

from elf.datamodules.evaluation import EvaluationSet
from elf.datamodules.images import PictureFolder
from elf.datamodules.shards import ShardDataModule

__all__ = ["EvaluationSet", "PictureFolder", "ShardDataModule"]
