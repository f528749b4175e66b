"""What turns pictures into embeddings that can be compared."""

from elf.embedders.clip import CLIPEmbedder

__all__ = ["CLIPEmbedder"]
