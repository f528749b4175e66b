"""A number of things in words."""


def counted(number: int, thing: str, things: str | None = None) -> str:
    """Return "1 picture" of (1, "picture") and "2 copies" of (2, "copy", "copies")."""
    return f"{number} {thing if number == 1 else things or f'{thing}s'}"
