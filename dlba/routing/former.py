"""Keeps on disk what the kernel's settings were before a node changed them.

An adapter for one file of the state folder, kernel.json, mode 0600: whole or not at all, and on the
disk before the first change. It belongs to one boot and one network namespace; after a reboot, or
in another namespace, the settings that it tells of are gone.

    {"boot": "UUID", "namespace": 4026531840, "interface": "eth0",
     "changes": [["sysctl", "all", "arp_ignore", 0, 1], …]}         the fields of needs.Change
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from dlba.errors import DLBAError
from dlba.routing.needs import GRO, LRO, Change

__all__ = ["FILE", "FormerSettings"]

#: In the state folder.
FILE: Final = "kernel.json"

_LARGEST: Final = 64 * 1024  # bytes; a node changes less than ten settings
_DEVICE: Final = re.compile(r"(?!\.{1,2}$)[^\s/:\0]{1,15}")
_ADDRESS: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}", re.ASCII)
_SYSCTLS: Final = ("arp_ignore", "arp_announce", "rp_filter")


class FormerSettings:
    """The file in the folder `state`."""

    def __init__(self, state: Path) -> None:
        self.path = state / FILE

    def write(self, interface: str, changes: Sequence[Change]) -> None:
        """Put `changes` of a node with this interface on the disk.

        Raises OSError that names the file; a fresh one that isn't whole is gone then.
        """
        document = {
            **_here(),
            "interface": interface,
            "changes": [[one.kind, one.device, one.key, one.former, one.wanted] for one in changes],
        }
        fresh = self.path.with_name(FILE + ".new")  # one process at a time has the folder
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(fresh, flags, 0o600)
        try:
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(json.dumps(document) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(fresh)
            raise _of(error, self.path) from error
        self._sync_folder()

    def read(self) -> tuple[str, tuple[Change, ...]] | None:
        """The interface and what was changed, None if nothing of that is in force any more.

        Raises OSError, or DLBAError for a file that isn't what `write` wrote.
        """
        try:
            with open(self.path, "rb") as file:
                text = file.read(_LARGEST + 1)
        except FileNotFoundError:
            return None
        try:
            if len(text) > _LARGEST:
                raise ValueError
            document = json.loads(text)
            interface = document["interface"]
            where = {"boot": document["boot"], "namespace": document["namespace"]}
            changes = tuple(_change(*fields) for fields in document["changes"])
            if not _DEVICE.fullmatch(interface):
                raise ValueError(interface)
        except (ValueError, TypeError, KeyError, RecursionError):
            raise DLBAError(
                f"{self.path}: expected the kernel's former settings, got something else"
            ) from None
        return (interface, changes) if where == _here() else None

    def remove(self) -> None:
        """Nothing is left to put back. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
            self._sync_folder()

    def set_aside(self) -> Path:
        """Give a damaged file another name, for people to look at. Raises OSError."""
        aside = self.path.with_name(FILE + ".damaged")
        os.replace(self.path, aside)
        return aside

    def _sync_folder(self) -> None:
        descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            raise _of(error, self.path.parent) from error
        finally:
            os.close(descriptor)


def _of(error: OSError, path: Path) -> OSError:
    """The same error, of `path`: what fails by descriptor (a full disk) names no file."""
    return OSError(error.errno, error.strerror, str(path))


def _here() -> dict[str, Any]:
    """This boot and this thread's network namespace.

    The kernel gives a namespace's number away again; settings put back there by mistake are those
    alone that are still as a node had made them.
    """
    return {
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip(),
        "namespace": os.stat("/proc/thread-self/ns/net").st_ino,
    }


def _change(kind: str, device: str, key: str, former: int, wanted: int) -> Change:
    """The change that these fields tell of. ValueError or TypeError if a node makes none such."""
    known = {
        "sysctl": key in _SYSCTLS,
        "feature": key in LRO + GRO,
        "address": device == "lo" and _ADDRESS.fullmatch(key),
    }
    numbers = type(former) is int and type(wanted) is int
    if not (known.get(kind) and _DEVICE.fullmatch(device) and numbers):
        raise ValueError(kind)
    return Change(kind, device, key, former, wanted)
