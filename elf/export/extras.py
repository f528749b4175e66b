"""What a file in kohya's form may say besides, if asked to: a picture, and what was captioned."""

import base64
import io
from collections import Counter
from pathlib import Path

from PIL import Image, ImageOps

from elf.errors import ElfError
from elf.images import BadImage, decode
from elf.preparation.prepared import read_prepared

SIDE, QUALITY = 256, 85


def thumbnail(path: Path) -> str:
    """Return a picture as ModelSpec has it: a JPEG of at most 256 px a side, in a data URL.

    Raises:
        ElfError: If there is no such picture.
    """
    try:
        picture = decode(path.read_bytes())
    except (OSError, BadImage) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ElfError(f"thumbnail: {path} could not be read ({why}); name a picture") from None
    small = ImageOps.contain(picture, (SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.convert("RGB").save(file, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def tag_frequency(shards: Path) -> dict[str, int]:
    """Return how many of the trained pictures' captions have each tag, the most frequent first.

    Args:
        shards: What the run was trained on; class pictures do not count.

    Raises:
        ElfError: If the shards are not there, or not whole.
    """
    found: Counter[str] = Counter()
    for example in read_prepared(shards).train:
        if not example.regularisation:
            tags = (tag.strip() for tag in example.captions.plain.split(","))
            found.update({tag for tag in tags if tag})
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))
