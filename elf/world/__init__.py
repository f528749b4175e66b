"""A small drawn world of figures in scenes, in which every attribute of a picture is known."""

from elf.world.drawing import draw
from elf.world.scene import Scene, held_out, sample_scene, wood_elf_scene
from elf.world.words import caption, prompt_caption, read_caption, tags, vocabulary

__all__ = [
    "Scene",
    "caption",
    "draw",
    "held_out",
    "prompt_caption",
    "read_caption",
    "sample_scene",
    "tags",
    "vocabulary",
    "wood_elf_scene",
]
