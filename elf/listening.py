"""Whether a page can listen at an address, asked before minutes of work."""

import errno
import socket

from elf.errors import ElfError
from elf.platforms import allow_lingering

LOOPBACK = "127.0.0.1"


def check_place(
    key: str, address: str, port: int, what: str, *, any_port: bool = False, only_ipv4: bool = False
) -> None:
    """Check that something can listen at an address and a port.

    Args:
        key: Of the address, for messages.
        address: A name or a number.
        port: 1 to 65535.
        what: What is to listen there.
        any_port: Whether the port may also be 0, which takes any that is free.
        only_ipv4: Whether it listens on IPv4 alone.

    Raises:
        ElfError: If it cannot.
    """
    if not 1 - any_port <= port <= 65535:
        hint = "; 0 takes any" if any_port else ""
        raise ElfError(f"port: {port} is not between {1 - any_port} and 65535{hint}")
    wanted = socket.AF_INET if only_ipv4 else socket.AF_UNSPEC
    try:
        found = socket.getaddrinfo(address, port, wanted, socket.SOCK_STREAM)
        family, kind, protocol, _, place = found[0]
        with socket.socket(family, kind, protocol) as probe:
            allow_lingering(probe)
            probe.bind(place)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ElfError(
                f"port: {port} is in use, perhaps by another {what}; close that, or give another "
                "port"
            ) from None
        ipv4 = "IPv4 " * only_ipv4
        raise ElfError(
            f"{key}: the {what} cannot listen at {address}:{port} ({error.strerror or error}); "
            f"give an {ipv4}address of this machine, as {LOOPBACK}"
        ) from None
