"""The one exception that a user is meant to read."""


class ElfError(Exception):
    """Bad input in one line: what is wrong, where, and the way out.

    The command line prints the message without a traceback and exits with 2.
    """
