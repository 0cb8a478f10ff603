"""Makes and removes the lab's network: namespaces, bridges, veth pairs; asks who sits inside.

Adapter. What is made comes from `dlba.lab.plan`; links and addresses go through netlink (pyroute2),
so no `ip` program is needed, but its namespaces are `ip`'s, too: bind mounts under /run/netns. A
thread enters a namespace with setns(2) and comes back; processes that it starts meanwhile stay
there. Both ends of a veth pair are born in the namespaces that they belong to: the machine's own
namespace never has a link of the lab, not even for a moment, and none of its settings is touched.

Where /run/netns lacks it is made, as a small shared file system of its own, so that `ip netns add`
finds what it would have made itself, and so that it is known as ours and taken away at the end.

All raise OSError or DLBAError with what isn't permitted or lacks.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

import attrs

from dlba.errors import DLBAError
from dlba.lab.plan import BRIDGES, PREFIX, SWITCH, SYSCTLS, Part, Plan, is_namespace_of, namespace

FOLDER = Path("/run/netns")
OURS = "dlba-lab"  # the source of the file system that we mount where FOLDER lacks

CLONE_NEWNET = 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MS_BIND = 4096
MS_SHARED = 1 << 20
MNT_DETACH = 2
STACKED = 16  # mounts on one name at most: nobody mounts twice, but a loop must end

SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCETHTOOL = 0x8913, 0x8914, 0x8946
IFF_UP, IFF_RUNNING = 1, 0x40
#: ethtool's commands: TX checksums, TCP segmentation, generic segmentation.
ETHTOOL_OFF = (0x17, 0x1F, 0x24)

ASK_TIMEOUT = 2.0  # seconds for all answers together; they come in milliseconds
MAX_ANSWER = 16 * 1024 * 1024  # bytes

_libc = ctypes.CDLL(None, use_errno=True)


@attrs.frozen
class Page:
    """Something to ask a part of the lab for over HTTP, from within its namespace."""

    host: str
    port: int
    path: str


def _call(name: str, what: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}", what)


def _mount(source: str, target: Path, kind: str | None, flags: int) -> None:
    encoded = None if kind is None else kind.encode()
    _call("mount", str(target), source.encode(), bytes(target), encoded, flags, None)


def _own() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def _coming_back() -> Iterator[None]:
    """The calling thread is in its present namespace again at the end."""
    home = _own()
    try:
        yield
    finally:
        _call("setns", "its own namespace", home, CLONE_NEWNET)
        os.close(home)


def enter(name: str) -> None:
    """The calling thread is in the network namespace `name` from now on."""
    with _opened(name) as descriptor:
        _call("setns", str(FOLDER / name), descriptor, CLONE_NEWNET)


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """The calling thread, and what it starts, is in the network namespace `name` for the block."""
    with _coming_back():
        enter(name)
        yield


@contextlib.contextmanager
def _opened(name: str) -> Iterator[int]:
    descriptor = os.open(FOLDER / name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


# Namespaces


def create(names: tuple[str, ...]) -> None:
    """Make network namespaces by these names, empty but for a loopback that is down.

    Not at the same time as `tidy`. OSError (EEXIST) for a name that is taken; those made till then
    stay.
    """
    if not FOLDER.exists():
        FOLDER.mkdir(mode=0o755, parents=True)
        _mount(OURS, FOLDER, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        _mount("none", FOLDER, None, MS_SHARED)
    for name in names:
        path = FOLDER / name
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC, 0o444))
        with _coming_back():
            _call("unshare", "a network namespace (CAP_SYS_ADMIN)", CLONE_NEWNET)
            _mount("/proc/thread-self/ns/net", path, None, MS_BIND)


def names_of(lab: str) -> list[str]:
    """The names of the lab's namespaces that are there, whole or half-made."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(name for name in os.listdir(FOLDER) if is_namespace_of(lab, name))
    return []


def identity(name: str) -> tuple[int, int] | None:
    """What the kernel knows the namespace by (device and inode), None if `name` is none."""
    return _identity(FOLDER / name)


def identity_of_process(pid: int | str) -> tuple[int, int] | None:
    """The same for the namespace that a process is in (`self`: this one); None if it has ended."""
    return _identity(Path(f"/proc/{pid}/ns/net"))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:  # gone, or somebody's whom not even root may look at
        return None
    # Half-made, a name is a file of some other file system.
    if found.st_dev != os.stat("/proc/self/ns/net").st_dev:
        return None
    return found.st_dev, found.st_ino


def remove(name: str) -> None:
    """Take the name away; the kernel ends the namespace when the last process has left it."""
    path = FOLDER / name
    for _ in range(STACKED):
        if _libc.umount2(bytes(path), MNT_DETACH) != 0:
            break
    path.unlink(missing_ok=True)


def tidy() -> None:
    """Take /run/netns away if it is ours and empty. Not at the same time as `create`."""
    if FOLDER.is_dir() and not os.listdir(FOLDER) and _is_ours():
        if _libc.umount2(bytes(FOLDER), 0) == 0:
            with contextlib.suppress(OSError):
                FOLDER.rmdir()


def _is_ours() -> bool:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, file_system = line.partition(" - ")
        if mount.split()[4] == str(FOLDER) and file_system.split()[:2] == ["tmpfs", OURS]:
            return True
    return False


# Links


def build(lab: Plan, offloads: bool) -> None:
    """Connect the namespaces of the plan, which are there and empty: all links up.

    `offloads` false: the client and the nodes leave no checksum and no segmentation to others, for
    who reads frames by libpcap alone.
    """
    with inside(namespace(lab.name, SWITCH)):
        _wire_switch(lab)
    for part in lab.parts:
        with inside(namespace(lab.name, part.name)):
            _wire_part(part)
            if not offloads and part.kind != "backend":
                _leave_nothing_to_others(part.links[0].interface)


@contextlib.contextmanager
def _netlink(what: str) -> Iterator[Any]:
    """Netlink to the namespace that the thread is in; its errors say `what` they are about."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as netlink:
            yield netlink
    except NetlinkError as error:
        raise DLBAError(f"{what}: expected links of kind bridge and veth, got: {error}") from None


def _wire_switch(lab: Plan) -> None:
    _set_sysctls()
    with _netlink("switch") as ip, contextlib.ExitStack() as opened:
        for bridge in BRIDGES:
            # Frames pass at once: no spanning tree, no delay before a port forwards.
            ip.link("add", ifname=bridge, kind="bridge", br_stp_state=0, br_forward_delay=0)
        bridges = {bridge: socket.if_nametoindex(bridge) for bridge in BRIDGES}
        for part in lab.parts:
            there = opened.enter_context(_opened(namespace(lab.name, part.name)))
            for link in part.links:
                peer = {"ifname": link.interface, "address": link.mac, "net_ns_fd": there}
                ip.link("add", ifname=link.port, kind="veth", peer=peer)
                index = socket.if_nametoindex(link.port)
                ip.link("set", index=index, master=bridges[link.bridge], state="up")
        for index in (*bridges.values(), socket.if_nametoindex("lo")):
            ip.link("set", index=index, state="up")


def _wire_part(part: Part) -> None:
    _set_sysctls()
    with _netlink(part.name) as ip:
        ip.link("set", index=socket.if_nametoindex("lo"), state="up")
        for link in part.links:
            index = socket.if_nametoindex(link.interface)
            ip.link("set", index=index, state="up")
            ip.addr("add", index=index, address=link.address, prefixlen=PREFIX)


def _set_sysctls() -> None:
    for name, value in SYSCTLS:
        path = Path("/proc/sys/net", name)
        # Only what differs: /proc/sys may be read-only in a container, and right all the same.
        if path.exists() and path.read_text().strip() != value:
            path.write_text(value)


def _leave_nothing_to_others(interface: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for command in ETHTOOL_OFF:
            value = ctypes.create_string_buffer(struct.pack("=II", command, 0), 8)
            asked = struct.pack("16sP16x", interface.encode(), ctypes.addressof(value))
            fcntl.ioctl(sock, SIOCETHTOOL, asked)


def _flags(sock: socket.socket, interface: str) -> int:
    answer = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16s24x", interface.encode()))
    return int(struct.unpack_from("=H", answer, 16)[0])


def has_link(name: str, interface: str) -> bool:
    """Whether the interface in the namespace `name` is up and has a carrier; False without one."""
    try:
        with inside(name), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            flags = _flags(sock, interface)
    except OSError:
        return False
    return flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING


def set_port(lab: str, port: str, up: bool) -> None:
    """Take a port of the lab's switch up or down; down: its other end loses the carrier."""
    with inside(namespace(lab, SWITCH)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        flags = _flags(sock, port) & ~IFF_UP | (IFF_UP if up else 0)
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH22x", port.encode(), flags))


# Questions


def _open_socket(name: str) -> socket.socket:
    """A TCP socket of IPv4 that belongs to the namespace `name`, wherever it is used."""
    with inside(name):
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


def ask(lab: str, pages: Mapping[str, Page]) -> dict[str, tuple[int, bytes] | None]:
    """Status and body that each part answers, by name; None where no answer comes in time."""
    end = time.monotonic() + ASK_TIMEOUT
    answers: dict[str, tuple[int, bytes] | None] = dict.fromkeys(pages)
    with contextlib.ExitStack() as opened:
        asked = []
        # All are asked before the first is read, so that one that hangs delays no other.
        for name, page in pages.items():
            with contextlib.suppress(OSError):
                sock = opened.enter_context(_open_socket(namespace(lab, name)))
                sock.settimeout(ASK_TIMEOUT / 4)
                sock.connect((page.host, page.port))
                sock.sendall(f"GET {page.path} HTTP/1.0\r\nHost: {page.host}\r\n\r\n".encode())
                asked.append((name, sock))
        for name, sock in asked:
            with contextlib.suppress(OSError, HTTPException):
                sock.settimeout(max(0.01, end - time.monotonic()))
                with contextlib.closing(HTTPResponse(sock)) as response:
                    response.begin()
                    answers[name] = response.status, response.read(MAX_ANSWER)
    return answers
