"""Connections that live through a fault, and what is heard and said meanwhile.

`Flows`: many downloads and kept connections of the client, each of which knows the node that serves
it. `Arp`: who answers for the VIP, asked all the time. `Story`: what every node says of the array,
all the time. `Tries`: a new connection every few milliseconds. All are context managers around a
fault; they gather in threads and programs of their own and are asked at the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import itertools
import json
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from labs import TRIES, VIP, Lab, pattern
from parts import ENV, ROOT, WAIT, wait_until
from wire import who_has

#: Of one download: bytes, and bytes a second until it may go as fast as it can. What buffers on the
#: way hold is less than what is left when a fault comes.
SIZE, RATE = 4 << 20, 128 << 10
RECEIVE_BUFFER = 32 << 10
TICK = 0.05
#: Seconds without a byte after which a flow counts as dead: what was sent while nobody was there is
#: sent again until then.
STALL = 10.0
#: Bytes of one answer on a kept connection.
SMALL = 1000
#: Seconds for an array to agree on whatever has changed.
AGREE = 15.0


class Flow(threading.Thread):
    """One connection of the client. `node`: who serves it; `wrong`: empty if it came through."""

    kind = ""

    def __init__(self, lab: Lab, context: ssl.SSLContext, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.node: str | None = None
        self.wrong: str | None = None
        self.ending = threading.Event()
        self.born = time.monotonic()
        sock = lab.socket()
        try:
            sock.settimeout(WAIT)
            # Before it is connected: its window is agreed on then.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", self.port))
            sock.connect((VIP, 443))
            # Whoever closes it resets it: its port is wanted again, and nobody asks after it.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock = context.wrap_socket(sock, server_hostname=VIP)
            self.sock.settimeout(STALL)
        except BaseException:
            sock.close()
            raise
        self.http = http.client.HTTPConnection(VIP)
        self.http.auto_open = 0
        self.http.sock = self.sock

    def run(self) -> None:
        try:
            self.go()
            self.wrong = ""
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.wrong = f"{type(error).__name__}: {error} ({time.monotonic() - self.born:.1f} s)"
        finally:
            # With the response, which holds on to the socket.
            self.http.close()

    def go(self) -> None:
        raise NotImplementedError

    def ask(self, size: int) -> http.client.HTTPResponse:
        self.http.request("GET", f"/bytes/{size}")
        response = self.http.getresponse()
        if response.status != 200:
            raise ValueError(f"expected 200, got {response.status}")
        return response


class Download(Flow):
    """SIZE known bytes, slowly until it may end."""

    kind = "download"
    expected = hashlib.sha256(pattern(SIZE)).hexdigest()

    def __init__(self, lab: Lab, context: ssl.SSLContext, port: int) -> None:
        super().__init__(lab, context, port)
        self._response = self.ask(SIZE)

    def go(self) -> None:
        digest, left = hashlib.sha256(), SIZE
        while left:
            data = self._response.read(min(left, int(RATE * TICK)))
            if not data:
                raise ValueError(f"expected {left} more bytes, got the end")
            digest.update(data)
            left -= len(data)
            if not self.ending.is_set():
                self.ending.wait(TICK)
        if digest.hexdigest() != self.expected:
            raise ValueError("expected the bytes that were sent, got others")


class Kept(Flow):
    """A kept connection with a small request now and then, and once more at its end."""

    kind = "session"
    every: float | None = 0.1

    def __init__(self, lab: Lab, context: ssl.SSLContext, port: int) -> None:
        super().__init__(lab, context, port)
        self.answers = 0
        self._once()

    def go(self) -> None:
        while not self.ending.wait(self.every):
            self._once()
        self._once()

    def _once(self) -> None:
        if self.ask(SMALL).read() != pattern(SMALL):
            raise ValueError("expected the bytes that were sent, got others")
        self.answers += 1


class Idle(Kept):
    """The same without a word until its end."""

    kind = "idle session"
    every = None


#: Ports that flows have now.
BUSY: set[int] = set()


def port_for(lab: Lab, node: str, scheduler: str) -> int:
    """A port whose connection goes to that node.

    A new one goes to the node that has least. Another node has the buckets of earlier flows; where
    those are in use, the first one gets some more.
    """
    for _ in range(TRIES):
        [fresh] = lab.new_ports(1)
        for port in (fresh, *lab.flow_ports):
            if port not in BUSY and lab.where(port, node=scheduler)["node"] == node:
                return port
        with lab.session(fresh) as session:
            assert session.ask().status == 200
            session.abort()
        lab.flow_ports.append(fresh)
    pytest.fail(f"no port of {TRIES} more goes to {node}")


def holders_of(lab: Lab, ports: Collection[int]) -> dict[int, set[str]]:
    """The nodes whose kernels have a connection of the client, by its ports.

    A node that was away while its connection was reset has it still, so there may be two.
    """
    found: dict[int, set[str]] = {port: set() for port in ports}
    for node in lab.macs:
        with lab.inside(node):
            lines = Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]
        for line in lines:
            _, _, remote, state, *_ = line.split()
            port = int(remote.partition(":")[2], 16)
            if state == "01" and port in found:
                found[port].add(node)
    return found


class Flows:
    """Many of all kinds, as many on each node; open and running when it is made.

    `settle`: seconds between the last one's beginning and now, at least: the younger ones' buckets
    need not outlive a fault. `nodes`: all that are there now; None: all of the lab.
    """

    def __init__(
        self,
        lab: Lab,
        downloads: int = 18,
        sessions: int = 9,
        settle: float = 0.2,
        nodes: Collection[str] | None = None,
    ) -> None:
        self._nodes = sorted(nodes or lab.macs)
        context = ssl.create_default_context(cafile=str(lab.folder / "lab.pem"))
        scheduler = wait_agreed(lab, self._nodes)
        self.all: list[Flow] = []
        began = 0.0
        for kind, count in ((Download, downloads), (Kept, sessions), (Idle, sessions)):
            for _, node in zip(range(count), itertools.cycle(self._nodes), strict=False):
                port = port_for(lab, node, scheduler)
                began = time.monotonic()
                self.all.append(kind(lab, context, port))
                self.all[-1].node = node
                BUSY.add(port)
                lab.flow_ports.append(port)
        for flow in self.all:
            flow.start()
        found = holders_of(lab, BUSY)
        astray = [flow.port for flow in self.all if flow.node not in found[flow.port]]
        assert not astray, f"they aren't where the scheduler said: {astray}"
        time.sleep(max(0.0, began + settle - time.monotonic()))

    def on(self, *nodes: str) -> list[Flow]:
        """Those that these nodes serve."""
        return [flow for flow in self.all if flow.node in nodes]

    def check(self, *dead: str, gone: bool = True) -> None:
        """All but those of nodes that died come through, and no download of those.

        `gone` false: the nodes only hung or were cut off, so that some of theirs may live.
        """
        for flow in self.all:
            flow.ending.set()
        for flow in self.all:
            flow.join(WAIT)
            BUSY.discard(flow.port)
        assert not [flow for flow in self.all if flow.is_alive()]
        broken = [
            f"{flow.kind} on {flow.node}, port {flow.port}: {flow.wrong}"
            for flow in self.all
            if flow.node not in dead and flow.wrong
        ]
        assert not broken, "\n".join([f"of {len(self.all)}, {dead} died:", *broken])
        whole = [
            f"port {flow.port} of {flow.node}: {flow.wrong}"
            for flow in self.on(*dead)
            if flow.kind == "download" and not flow.wrong
        ]
        assert not (gone and whole), f"downloads outlived {dead}: {whole}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for flow in self.all:
            flow.ending.set()
            with contextlib.suppress(OSError):
                # Wakes its reader, and tells nobody else.
                socket.socket.shutdown(flow.sock, socket.SHUT_RD)
        for flow in self.all:
            flow.join(WAIT)
            BUSY.discard(flow.port)


# What is said for the VIP


class Arp:
    """Asks who has the VIP every 50 ms, and hears who says that it has."""

    EVERY = 0.05
    ETH_P_ARP = 0x0806

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        #: When somebody said that he has the VIP, and his MAC in the ARP packet.
        self.said: list[tuple[float, str]] = []
        self._end = threading.Event()
        with lab.inside("client"):
            self._socket = socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW, socket.htons(self.ETH_P_ARP)
            )
        self._socket.bind(("eth0", self.ETH_P_ARP))
        self._threads = [threading.Thread(target=f, daemon=True) for f in (self._hear, self._ask)]

    def _ask(self) -> None:
        question = bytes(who_has(VIP))
        while not self._end.wait(self.EVERY):
            self._socket.send(question)

    def _hear(self) -> None:
        self._socket.settimeout(0.1)
        vip = socket.inet_aton(VIP)
        while not self._end.is_set():
            with contextlib.suppress(TimeoutError):
                frame = self._socket.recv(2048)
                # RFC 826: sender's MAC at 8, its address at 14 of the packet.
                if len(frame) >= 42 and frame[28:32] == vip:
                    self.said.append((time.monotonic(), frame[22:28].hex(":")))

    def turns(self, since: float = 0.0) -> list[str]:
        """The MACs that said so in turn, each once as long as no other came between."""
        macs = [mac for at, mac in list(self.said) if at >= since]
        return [mac for mac, _ in itertools.groupby(macs)]

    def check(self, *nodes: str) -> None:
        """Those nodes had the VIP, in this order, and at no moment two."""
        assert self.turns() == [self._lab.scheduler_mac(node) for node in nodes]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        wait_until("somebody who has the VIP", lambda: self.said, 10)
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(WAIT)
        self._socket.close()


# What nodes say of themselves


def status(lab: Lab, node: str, seconds: float = WAIT) -> dict[str, Any] | None:
    """`/status` of a node; None if it doesn't answer within that."""
    sock = lab.socket(node)
    try:
        sock.settimeout(seconds)
        sock.connect(("127.0.0.1", 9080))
        sock.sendall(b"GET /status HTTP/1.0\r\n\r\n")
        with contextlib.closing(http.client.HTTPResponse(sock)) as response:
            response.begin()
            return json.loads(response.read())
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        sock.close()


def agreed(lab: Lab, nodes: Collection[str]) -> str | None:
    """The scheduler that all these nodes name, in one term; None unless it is one of them."""
    documents = {node: status(lab, node, 2.0) for node in nodes}
    if not all(documents.values()):
        return None
    told = {(document["scheduler"], document["term"]) for document in documents.values()}
    roles = {node: document["role"] for node, document in documents.items()}
    if len(told) != 1:
        return None
    [(name, _)] = told
    expected = {node: "scheduler" if node == name else "backup" for node in nodes}
    return name if roles == expected else None


def wait_agreed(
    lab: Lab, nodes: Collection[str], but: str | None = None, seconds: float = AGREE
) -> str:
    """The scheduler that all these nodes name, once they do, and it isn't `but`."""

    def found() -> str | None:
        name = agreed(lab, nodes)
        return None if name == but else name

    try:
        return wait_until(f"one scheduler for {sorted(nodes)}", found, seconds)
    except pytest.fail.Exception:
        told = {node: status(lab, node, 2.0) for node in nodes}
        keys = ("role", "term", "scheduler")
        for node, document in told.items():
            print(node, document and {key: document.get(key) for key in keys})
        raise


def scheduler_of(lab: Lab) -> str:
    """The scheduler of a whole array."""
    return wait_agreed(lab, lab.macs)


def wait_whole(lab: Lab) -> str:
    """The scheduler, once it is the same for all nodes, and none is failed for it."""
    name = scheduler_of(lab)
    wait_until(
        f"{name} sees all nodes",
        lambda: not any(row["failed"] for row in lab.status(name)["nodes"]),
        AGREE,
    )
    return name


def wait_same_table(lab: Lab, nodes: Collection[str], ports: Collection[int]) -> None:
    """All these nodes have the same client table, and name the same owner for each port."""

    def same() -> bool:
        tables = {json.dumps(lab.status(node)["table"]) for node in nodes}
        return len(tables) == 1

    wait_until("the same table everywhere", same, AGREE)
    for port in ports:
        owners = {node: lab.where(port, node=node)["owner"] for node in nodes}
        assert len(set(owners.values())) == 1, (port, owners)


class Story:
    """Asks every node all the time who is scheduler, and in which term."""

    EVERY = 0.05

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        #: (when, node, role, term, scheduler)
        self.told: list[tuple[float, str, str, int, str | None]] = []
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(node,), daemon=True) for node in lab.macs
        ]

    def _ask(self, node: str) -> None:
        while not self._end.wait(self.EVERY):
            document = status(self._lab, node, 0.5)
            if document is not None:
                words = (document["role"], document["term"], document["scheduler"])
                self.told.append((time.monotonic(), node, *words))

    def check(self) -> None:
        """In each term all named the same scheduler, and no other played it."""
        by_term: dict[int, set[str]] = {}
        for _, node, role, term, scheduler in self.told:
            named = {scheduler} if scheduler is not None else set()
            named |= {node} if role == "scheduler" else set()
            by_term.setdefault(term, set()).update(named)
        double = {term: names for term, names in by_term.items() if len(names) > 1}
        assert not double, double

    def roles(self, node: str, since: float = 0.0) -> list[str]:
        """What the node called itself, each once as long as it said nothing else."""
        said = [role for at, name, role, *_ in list(self.told) if name == node and at >= since]
        return [role for role, _ in itertools.groupby(said)]

    def terms(self) -> list[int]:
        """All terms that were told of."""
        return sorted({term for _, _, _, term, _ in self.told})

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(WAIT)


# New connections


class Tries:
    """A new connection to the VIP every 5 ms, as benchmarks/failover.py makes them."""

    def __init__(self, lab: Lab) -> None:
        program = Path(ROOT) / "benchmarks" / "failoverprobe.py"
        with lab.inside("client"):
            self._process = subprocess.Popen(
                [sys.executable, str(program), VIP, "80"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=ENV,
                start_new_session=True,
            )

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def outage(self, fault: float) -> float:
        """Seconds without a try that succeeded, around the moment `fault`."""
        self._tell(f"fault {fault}")
        assert self._process.stdout is not None
        tries = json.loads(self._process.stdout.readline())
        good = [began for began, took in tries if took is not None]
        assert good and tries[-1][0] - good[-1] < 1.0, "it wasn't over"
        return max(two - one for one, two in itertools.pairwise(good) if two > fault)

    def __enter__(self) -> Self:
        self._tell("go")
        time.sleep(1.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate(timeout=WAIT)


@contextlib.contextmanager
def watched(lab: Lab) -> Iterator[tuple[Arp, Story]]:
    """ARP and story together."""
    with Arp(lab) as arp, Story(lab) as story:
        yield arp, story
