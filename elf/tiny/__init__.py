"""Four tiny models in the real classes and file formats: base, tagger, captioner and CLIP."""

from pathlib import Path

KINDS = ("base", "tagger", "captioner", "clip")
"""The four models, in the order in which they are built."""


def build_all(folder: str | Path, seed: int = 0) -> dict[str, Path]:
    """Write all four models, untrained, below `folder`; the same seed writes the same bytes.

    Returns:
        The folder of each model by its kind.
    """
    from elf.tiny import base, captioner, clip, tagger

    folders = {kind: Path(folder) / kind for kind in KINDS}
    base.build(folders["base"], seed)
    tagger.build(folders["tagger"], seed)
    captioner.build(folders["captioner"], seed)
    clip.build(folders["clip"], seed)
    return folders
