"""Private network namespaces for tests on real frames: unnamed, and gone when the test is over.

    class FrameTests(SynchronousTestCase):
        skip = namespaces.missing()             # None, or what keeps this machine from it

        def test_something(self) -> None:
            with namespaces.private():          # this thread, and the processes it starts
                namespaces.pair("one", "two")   # a veth pair, up, silent

A namespace belongs to the calling thread alone; sockets, links and processes made while it is
entered stay in it. The kernel removes it, links and all, when the last of them is closed. Nothing
is written outside it: no name under /run/netns, no setting of the machine's own namespace.
"""

import ctypes
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from time import monotonic, sleep
from typing import Any

CLONE_NEWNET = 0x40000000
ONE = "02:99:00:00:01:01"
TWO = "02:99:00:00:01:02"


def _call(name: str, *arguments: int) -> None:
    """A function of the C library that tells of an error by -1 and errno."""
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _current() -> int:
    """A descriptor of the calling thread's network namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


class Namespace:
    """A fresh network namespace: lo is up, IPv6 is off. The calling thread stays where it was."""

    def __init__(self) -> None:
        """Raises OSError where it isn't permitted."""
        before = _current()
        try:
            _call("unshare", CLONE_NEWNET)
            try:
                self.fd = _current()
                for which in ("all", "default"):
                    # Else each link sends router solicitations and listener reports of its own.
                    setting = Path(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6")
                    if setting.exists():
                        setting.write_text("1")
                ip("link set lo up")
            finally:
                _call("setns", before, CLONE_NEWNET)
        finally:
            os.close(before)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is in this namespace, then again where it was."""
        before = _current()
        try:
            _call("setns", self.fd, CLONE_NEWNET)
            try:
                yield
            finally:
                _call("setns", before, CLONE_NEWNET)
        finally:
            os.close(before)

    def take(self, link: str) -> None:
        """Move `link` here from the namespace that is entered; it is down then."""
        ip(f"link set {link} netns /proc/{os.getpid()}/fd/{self.fd}")

    def close(self) -> None:
        """Let go of the namespace; it lives on while a socket or a process is in it."""
        os.close(self.fd)


@contextmanager
def private() -> Iterator[Namespace]:
    """The calling thread is in a fresh namespace; nest them for several, see `Namespace`."""
    namespace = Namespace()
    try:
        with namespace.entered():
            yield namespace
    finally:
        namespace.close()


def ip(*lines: str) -> None:
    """Run command lines of `ip` (without the word) in one process; AssertionError at the first
    that fails."""
    run = subprocess.run(
        ["ip", "-batch", "-"], input="\n".join(lines), capture_output=True, text=True, timeout=20
    )
    if run.returncode:
        raise AssertionError(f"ip: expected no error, got {run.stderr.strip()!r} from {lines!r}")


def pair(one: str = "one", two: str = "two", macs: tuple[str, str] = (ONE, TWO)) -> None:
    """A veth pair in the namespace that is entered, both ends up, with these MACs."""
    ip(
        f"link add {one} address {macs[0]} type veth peer name {two} address {macs[1]}",
    )
    up(one, two)


def up(*links: str) -> None:
    """Bring `links` up, and wait until they carry frames.

    A link that has its carrier drops all that is sent, without a word, until the kernel gets round
    to giving it a queue (linkwatch); mostly at once, on a busy machine not.
    """
    ip(*(f"link set {link} up" for link in links))
    until = monotonic() + 10
    while any(_show(link)["qdisc"] == "noop" for link in links):
        if monotonic() > until:
            raise AssertionError(f"links: expected {links} up within 10 s, got some without a peer")
        sleep(0.002)


def _show(link: str) -> Any:
    """What `ip` knows of a link."""
    command = ["ip", "-j", "-d", "link", "show", link]
    return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=20).stdout)[
        0
    ]


def promiscuity(link: str) -> int:
    """How many ask that `link` receive every MAC's frames."""
    return _show(link)["promiscuity"]


@cache
def missing(*, tun: bool = False, bridge: bool = False) -> str | None:
    """What keeps this process from making namespaces with links in them, None if nothing does.

    `tun`, `bridge`: such devices are needed too.
    """
    if not shutil.which("ip"):
        return "ip (Debian package iproute2) is missing"
    try:
        with private():
            pair()
            if bridge:
                ip("link add switch type bridge")
    except OSError as error:
        return f"no network namespaces (root or CAP_SYS_ADMIN and CAP_NET_ADMIN needed): {error}"
    except AssertionError as error:
        return f"no veth or bridge in a network namespace: {error}"
    if tun and not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "/dev/net/tun is missing or closed to this user"
    return None
