"""Type for pictures that people look at."""

from functools import cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

FILES = {
    False: ("DejaVuSans.ttf", "Arial.ttf", "arial.ttf"),
    True: ("DejaVuSans-Bold.ttf", "Arial Bold.ttf", "arialbd.ttf"),
}


@cache
def font(size: int, bold: bool = False) -> Font:
    """Return a font of a size in px: the system's, or Pillow's own, which has only ASCII."""
    for name in FILES[bold]:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def width(text: str, type_: Font) -> float:
    """Return how wide a line of text is, px."""
    return type_.getlength(text)


def wrap(text: str, type_: Font, most: float, lines: int) -> list[str]:
    """Break a text into at most so many lines of at most so many px; what is cut off ends in ….

    It breaks at spaces, and within a word that is longer than a line.
    """
    left = " ".join(text.split())
    done: list[str] = []
    while left and len(done) < lines:
        end = _fitting(left, type_, most)
        if end < len(left) and (space := left.rfind(" ", 1, end + 1)) > 0:
            end = space
        done.append(left[:end].rstrip())
        left = left[end:].lstrip()
    if left:
        last = done[-1]
        while last and width(last + "…", type_) > most:
            last = last[:-1]
        done[-1] = last.rstrip(" ,") + "…"
    return done


def _fitting(text: str, type_: Font, most: float) -> int:
    """Return how many characters fit, at least one."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if width(text[:middle], type_) <= most:
            low = middle
        else:
            high = middle - 1
    return low
