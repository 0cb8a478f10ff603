"""Looks at this machine for the doctor.

An adapter: it tells what is there; what that means `dlba.doctor.findings` says. Nothing is made or
changed by looking: no state folder, no lock, no device. Whatever can't be read becomes an `Unseen`,
so that one closed door hides nothing behind the others.
"""

from __future__ import annotations

import ctypes
import fcntl
import http.client
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs

from dlba.addresses import Endpoint
from dlba.config.keys import needs_keys
from dlba.config.values import NodeConfig
from dlba.doctor.facts import Facts, Unseen
from dlba.doctor.kernel import merging
from dlba.errors import DLBAError
from dlba.routing import needs
from dlba.routing.links import addresses, find
from dlba.routing.needs import TUN
from dlba.routing.offloads import read_features
from dlba.routing.settings import capabilities, no_tun
from dlba.routing.sysctls import read_all, unwritable
from dlba.state import load_keys

__all__ = ["look"]

_T = TypeVar("_T")

#: Seconds for `nft`, and for the node's own monitor.
NFT_TIMEOUT: Final = 3.0
MONITOR_TIMEOUT: Final = 1.0
#: Bytes of a status document.
MAX_STATUS: Final = 16 << 20
_PATH: Final = "/usr/sbin:/sbin:/usr/bin:/bin"
_FIRST_FREE_PORT: Final = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
_LEGACY_TABLES: Final = "/proc/thread-self/net/ip_tables_names"


def look(config: NodeConfig) -> Facts:
    """What there is of the node that `config` describes. Raises nothing that a machine can do."""
    running = _tried(lambda: is_held(config.state))
    facts = Facts(
        running=running,
        role=_role(config) if running is True else None,
        capabilities=capabilities(),
        first_free_port=_first_free_port(),
        synchronised=_tried(is_synchronised),
        keys=_keys(config),
    )
    return facts if config.interface is None else _look_at(config.interface, config, facts)


def _look_at(name: str, config: NodeConfig, facts: Facts) -> Facts:
    """What there is of the interface, too."""
    features = needs.feature_names(merging(config))
    tun = _tried(lambda: find(TUN))
    sysctls = needs.sysctls_of(name) + (needs.sysctls_of(TUN) if tun is not None else ())
    return attrs.evolve(
        facts,
        interface=_tried(lambda: find(name)),
        tun=tun,
        no_tun=no_tun(),
        addresses=_tried(addresses),
        sysctls=read_all(sysctls),
        no_sysctls=unwritable(),
        features=_tried(lambda: read_features(name, features)),
        ruleset=read_ruleset(),
        legacy_tables=_legacy_tables(),
    )


def _tried(read: Callable[[], _T]) -> _T | Unseen:
    try:
        return read()
    except OSError as error:
        return Unseen(error.strerror or str(error))


# ---------------------------------------------------------------- the node


def is_held(state: Path) -> bool:
    """Whether a process holds the state folder, as `dlba.state.lock_state` does. Raises OSError."""
    try:
        lock = os.open(state / "lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _role(config: NodeConfig) -> str | None:
    return None if config.monitor is None else ask_role(config.monitor.listen)


def ask_role(monitor: Endpoint) -> str | None:
    """The role that the node's monitor tells, None if it tells none."""
    connection = http.client.HTTPConnection(monitor.host, monitor.port, timeout=MONITOR_TIMEOUT)
    try:
        connection.request("GET", "/status")
        document = json.loads(connection.getresponse().read(MAX_STATUS))
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        return None
    finally:
        connection.close()
    role = document.get("role") if isinstance(document, dict) else None
    return role if isinstance(role, str) else None


def _keys(config: NodeConfig) -> int | Unseen | None:
    """How many keys sign; None if there is no file."""
    path = config.state / "secrets" if config.secrets is None else config.secrets
    # Asked first: load_keys would make the folder, and the file.
    try:
        if not needs_keys(config) or not path.exists():
            return None
        return len(load_keys(config).signing)
    except OSError as error:
        return Unseen(f"{path}: {error.strerror or error}")
    except DLBAError as error:
        return Unseen(str(error))


# ---------------------------------------------------------------- the machine


def _first_free_port() -> int:
    try:
        return int(Path(_FIRST_FREE_PORT).read_text("ascii"))
    except OSError:
        return 1024


class _Timex(ctypes.Structure):
    """The beginning of `struct timex` (sys/timex.h), and room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 512),
    )


_TIME_ERROR: Final = 5  # what adjtimex returns where nobody keeps the clock
_STA_UNSYNC: Final = 0x40


def is_synchronised() -> bool:
    """Whether somebody keeps the kernel's clock in step. Raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    timex = _Timex()  # no modes: it is only read
    state = library.adjtimex(ctypes.byref(timex))
    if state < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return state != _TIME_ERROR and not timex.status & _STA_UNSYNC


# ---------------------------------------------------------------- the firewall


def read_ruleset() -> list[dict[str, Any]] | Unseen | None:
    """What `nft` lists of this network namespace, None without that program."""
    program = shutil.which("nft", path=_PATH)
    if program is None:
        return None
    try:
        run = subprocess.run(  # noqa: S603 - a program of the system's folders
            [program, "-j", "list", "ruleset"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=NFT_TIMEOUT,
            check=False,
            env={"PATH": _PATH, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Unseen(str(error))
    if run.returncode:
        text = " ".join(run.stderr.decode("utf-8", "replace").split())[:200]
        return Unseen(text or f"exit code {run.returncode}")
    try:
        listed = json.loads(run.stdout)["nftables"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return Unseen("expected a ruleset as JSON, got something else")
    return [entry for entry in listed if isinstance(entry, dict)]


def _legacy_tables() -> tuple[str, ...]:
    try:
        return tuple(Path(_LEGACY_TABLES).read_text("ascii").split())
    except OSError:
        return ()  # the module isn't loaded, or we aren't root
