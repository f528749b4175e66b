"""Tiny models in the real classes and file formats; `elf.tiny.train` trains six of them.

Here four are built without training: base, tagger, captioner and CLIP.
"""

from pathlib import Path

BUILT = ("base", "tagger", "captioner", "clip")
"""The models that are built untrained, in this order."""


def build_all(folder: str | Path, seed: int = 0) -> dict[str, Path]:
    """Write those models, untrained, below `folder`; the same seed writes the same bytes.

    Returns:
        The folder of each model by its kind.
    """
    from elf.tiny import base, captioner, clip, tagger

    folders = {kind: Path(folder) / kind for kind in BUILT}
    base.build(folders["base"], seed)
    tagger.build(folders["tagger"], seed)
    captioner.build(folders["captioner"], seed)
    clip.build(folders["clip"], seed)
    return folders
