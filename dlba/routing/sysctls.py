"""Reads and writes the sysctls under net.ipv4.conf of the calling thread's network namespace.

An adapter. A process with CAP_NET_ADMIN may write them without being root; a read-only /proc/sys
(systemd's ProtectKernelTunables=, some containers) stops root as well.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Final

__all__ = ["read_all", "read_sysctl", "silence_ipv6", "unwritable", "write_sysctl"]

_FOLDER: Final = "/proc/sys/net/ipv4/conf"
_NO_IPV6: Final = "/proc/sys/net/ipv6/conf/{}/disable_ipv6"


def read_sysctl(device: str, key: str) -> int | None:
    """The value for `device` (an interface, `all`), None if the device isn't there."""
    try:
        with open(f"{_FOLDER}/{device}/{key}", "rb") as file:
            return int(file.read())
    except FileNotFoundError:
        return None


def read_all(names: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """The values of devices and keys; those of a device that isn't there are left out."""
    found = {name: read_sysctl(*name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def write_sysctl(device: str, key: str, value: int) -> None:
    """Set it. Raises OSError."""
    with open(f"{_FOLDER}/{device}/{key}", "wb", buffering=0) as file:
        file.write(b"%d" % value)


def silence_ipv6(device: str) -> None:
    """Keep the kernel's own IPv6 packets off a device that carries IPv4 alone; or let it be."""
    with contextlib.suppress(OSError), open(_NO_IPV6.format(device), "wb", buffering=0) as file:
        file.write(b"1")


def unwritable() -> str | None:
    """Why sysctls can't be set here, None if they can."""
    # access(2) asks for the real user and forgets the capabilities: only opening tells.
    try:
        os.close(os.open(f"{_FOLDER}/all/arp_ignore", os.O_WRONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.strerror
    return None
