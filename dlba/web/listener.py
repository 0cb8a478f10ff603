"""Accepts clients on one port, and stops accepting when there is no room.

At most 64 accepts a wake. At `limits.connections`, or when the kernel gives no descriptor, the
listener leaves the poller until a client ends (or, without one, a short while passes): connections
wait in the kernel's queue, nobody is turned away. A client address with `per_client` connections
gets its next one closed at once. What every client's socket needs is set on the listening socket
and inherited. Source: web.md rule 1.
"""

from __future__ import annotations

import _socket
import errno
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from dlba.config.values import ListenerConfig
from dlba.poller import READ
from dlba.web.clientsocket import ClientSocket
from dlba.web.http1 import Http1
from dlba.web.stream import PlainStream, Stream
from dlba.web.tls import Certificates, Contexts, TLSStream

if TYPE_CHECKING:
    from dlba.web.proxy import Proxy

__all__ = ["Listener", "bind"]

#: Accepts of one wake: others have their turn in between.
ACCEPTS: Final = 64
#: Connections that wait in the kernel; it cuts this to its own limit (net.core.somaxconn).
BACKLOG: Final = 4096
#: Seconds after which a listener without room looks again, though no client of ours has ended.
RETRY: Final = 0.25
#: Seconds of silence before the kernel probes a client, where nothing else is asked for.
KEEPALIVE: Final = 100
#: Seconds of silence at most: what Linux takes for TCP_KEEPIDLE (MAX_TCP_KEEPIDLE).
LONGEST_KEEPALIVE: Final = 32767
#: Seconds between two probes at most: Linux's own default.
INTERVAL: Final = 75

_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def bind(
    address: str | None, port: int, keepalive: int = KEEPALIVE, beside: bool = False
) -> socket.socket:
    """A listening socket. `address` None: all addresses, both families where there are two.

    `keepalive`: seconds of silence before, and between, the kernel's probes of a client; at most
    `LONGEST_KEEPALIVE` and `INTERVAL`. `beside`: a socket of ours with `share` may have the port.
    Raises OSError when the address can't be had.
    """
    families: list[tuple[socket.AddressFamily, str]]
    if address is None:
        families = [(socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")]  # noqa: S104 - asked for
    elif ":" in address:
        families = [(socket.AF_INET6, address)]
    else:
        families = [(socket.AF_INET, address)]
    for family, host in families:
        try:
            return _bind(family, host, port, keepalive, address is None, beside)
        except OSError as error:
            # A machine without IPv6 has only the second family.
            if (family, host) == families[-1] or error.errno == errno.EADDRINUSE:
                raise
    raise AssertionError("unreachable")


def _bind(
    family: socket.AddressFamily, host: str, port: int, keepalive: int, both: bool, beside: bool
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, min(keepalive, LONGEST_KEEPALIVE))
        # A probe that is lost is followed by the next one as soon.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, min(keepalive, INTERVAL))
        if beside:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        # Whoever starts a second node by mistake shall hear that the port is taken.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
    except BaseException:
        sock.close()
        raise
    return sock


class Listener:
    """One listening port. `deadline`, `slot`: see `dlba.web.deadlines`.

    `key`: address (None: all) and port as configured; `redirect_port`: of the TLS port that clients
    are sent to, 0: they are served here.
    """

    def __init__(
        self,
        proxy: Proxy,
        config: ListenerConfig,
        address: str | None,
        keepalive: int = KEEPALIVE,
        contexts: Contexts | None = None,
        beside: bool = False,
    ) -> None:
        """Bind; arguments as of `bind`. `contexts`: of a TLS port.

        Raises OSError when the port can't be had, or as `Certificates` does.
        """
        self._proxy = proxy
        self.config = config
        self.key = (address, config.port)
        self.redirect_port = 0
        self._certificates = None if contexts is None else Certificates(contexts)
        self._socket = bind(address, config.port, keepalive, beside)
        self._family = self._socket.family
        self.port: int = self._socket.getsockname()[1]
        self._paused = False
        self.deadline = 0.0
        self.slot = -1

    def __str__(self) -> str:
        host = self._socket.getsockname()[0]
        where = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        return f"{where} ({'HTTP' if self._certificates is None else 'HTTPS'})"

    @property
    def contexts(self) -> Contexts | None:
        """Of a TLS port; None: plain HTTP is spoken."""
        return None if self._certificates is None else self._certificates.contexts

    def certificates(self, contexts: Contexts | None) -> Certificates | None:
        """What to give `configure` with `contexts`; raises as `Certificates` does."""
        return None if contexts is None else self._certificates or Certificates(contexts)

    def configure(
        self, config: ListenerConfig, certificates: Certificates | None, contexts: Contexts | None
    ) -> None:
        """Serve whoever connects from now on by `config`, of the same address and port."""
        self.config = config
        self._certificates = certificates
        if certificates is not None and contexts is not None:
            certificates.contexts = contexts

    def start(self) -> None:
        """Accept from now on."""
        self._proxy.poller.add(self._socket.fileno(), READ, self)

    def share(self, shared: bool) -> None:
        """Whether a socket that is bound `beside` may have this port, at another address."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)

    def stop(self) -> None:
        """Accept no more and give the port back."""
        self._proxy.deadlines.forget(self)
        if not self._paused:
            self._proxy.poller.forget(self._socket.fileno())
        self._paused = False
        self._socket.close()

    def on_event(self, mask: int) -> None:
        """The poller: clients wait."""
        proxy = self._proxy
        for _ in range(ACCEPTS):
            if len(proxy.clients) >= proxy.connections_limit:
                self._pause()
                return
            try:
                fd, peer = self._socket._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._pause()
                    return
                # Any other error is that of one connection that ended before it was accepted.
                continue
            self._accepted(_socket.socket(self._family, socket.SOCK_STREAM, 0, fd), peer)

    def _accepted(self, sock: _socket.socket, peer: tuple[Any, ...]) -> None:
        proxy = self._proxy
        sock.setblocking(False)
        # An IPv4 client of a socket for both families.
        host = peer[0].removeprefix("::ffff:")
        if not proxy.admit(host):
            proxy.counters.connections_refused += 1
            sock.close()
            return
        client = None
        try:
            certificates = self._certificates
            stream: Stream = (
                PlainStream(sock) if certificates is None else TLSStream(sock, certificates.context)
            )
            client = ClientSocket(
                proxy, sock, stream, (host, peer[1]), self.port, self.redirect_port
            )
            proxy.counters.connections_accepted += 1
            proxy.clients.add(client)
            client.start(Http1(proxy, client))
        except BaseException:
            if client is None:
                proxy.release(host, proxy.forwarding.trusts(host))
                sock.close()
            else:
                client.reset()
            raise

    def take_waiting(self) -> None:
        """Before `stop`: accept who is connected already, whom a close would reset."""
        counters = self._proxy.counters
        before = -1
        while not self._paused:
            taken = counters.connections_accepted + counters.connections_refused
            if taken == before:
                break
            before = taken
            self.on_event(READ)

    def abort(self) -> None:
        """The poller caught an exception while accepting; the port stays open."""

    def expire(self, now: float) -> None:
        """There may be room again."""
        self.resume()

    def resume(self) -> None:
        """Accept again if paused."""
        if self._paused:
            self._paused = False
            self._proxy.deadlines.forget(self)
            self._proxy.poller.add(self._socket.fileno(), READ, self)

    def _pause(self) -> None:
        proxy = self._proxy
        self._paused = True
        proxy.counters.accepts_paused += 1
        proxy.poller.remove(self._socket.fileno())
        self.deadline = time.monotonic() + RETRY
        proxy.deadlines.watch(self)
