"""Elf: from a folder of pictures to a LoRA/DoRA adapter that is proven to be good."""

__version__ = "0.1.0"
