"""What a user is meant to read: an error, or a warning; each is one line."""


class ElfError(Exception):
    """Bad input in one line: what is wrong, where, and the way out.

    The command line prints the message without a traceback and exits with 2.
    """


class ElfWarning(UserWarning):
    """What a user should know of input that is taken nevertheless, in one line.

    The command line prints the message alone, where Python would say which line of code warned.
    """


def first_line(error: BaseException, most: int = 200) -> str:
    """Return what a library's error says first, of so many characters; its class if nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]
