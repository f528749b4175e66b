"""What turns pictures into embeddings that can be compared, and keeps them.

A reader starts at `interface`, which says what every embedder is; `cache` keeps their rows on the
disk. Nothing here knows Lightning, and transformers, torchvision, timm and onnxruntime are imported
when a model is made.
"""

from elf.embedders.cache import EmbeddingCache, open_pictures, pixel_key
from elf.embedders.clip import CLIPEmbedder
from elf.embedders.copies import CopyEmbedder
from elf.embedders.dino import DinoEmbedder
from elf.embedders.factory import make_embedder
from elf.embedders.interface import Kind, PictureEmbedder
from elf.embedders.tagger import LoadedTagger, TaggerEmbedder, TagScores

__all__ = [
    "CLIPEmbedder",
    "CopyEmbedder",
    "DinoEmbedder",
    "EmbeddingCache",
    "Kind",
    "LoadedTagger",
    "PictureEmbedder",
    "TagScores",
    "TaggerEmbedder",
    "make_embedder",
    "open_pictures",
    "pixel_key",
]
