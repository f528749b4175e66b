"""What a user is meant to read: an error, or a warning; each is one line."""


class ElfError(Exception):
    """Bad input in one line: what is wrong, where, and the way out.

    The command line prints the message without a traceback and exits with 2.
    """


class ElfWarning(UserWarning):
    """What a user should know of input that is taken nevertheless, in one line.

    The command line prints the message alone, where Python would say which line of code warned.
    """
