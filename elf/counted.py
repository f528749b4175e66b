"""A number of things in words, and many things in few lines."""


def counted(number: int, thing: str, things: str | None = None) -> str:
    """Return "1 picture" of (1, "picture") and "2 copies" of (2, "copy", "copies")."""
    return f"{number} {thing if number == 1 else things or f'{thing}s'}"


def some(lines: list[str], most: int) -> list[str]:
    """Return the first lines, and one that says how many more there are."""
    more = len(lines) - most
    return [*lines[:most], f"  ... and {more} more"] if more > 0 else lines
