"""Draws a scene: the same scene and size give the same pixels."""

import numpy as np
from PIL import Image

from elf.world.backdrop import PAPERS, backdrop
from elf.world.figure import figure
from elf.world.painter import Painter
from elf.world.scene import Scene


def draw(scene: Scene, width: int = 64, height: int = 64) -> Image.Image:
    """Draw a scene as an RGB picture.

    Args:
        scene: what to draw; its seed decides all that has no name.
        width: px; between three quarters and four thirds of the height.
        height: px; 64 is the native size, larger ones show the same drawing in detail.
    """
    random = np.random.default_rng((scene.seed, 0))
    light = int(random.choice((-1, 1)))
    painter = Painter(width, height, scene.style, light, PAPERS[scene.time])
    backdrop(painter, scene.background, scene.time, random)
    figure(painter, scene, random)
    return painter.finish()
