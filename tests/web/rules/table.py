"""Asks a proxy row by row: bytes in, the answer, the bytes at the backend, and how it ended.

A row is done by a client of its own. The backend takes one request a connection, answers, and then
reads until the proxy ends the connection, so that nothing sent behind a request stays unseen.
Rows that don't hold are collected, and told together at the end of a test.
"""

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

from dlba.web.proxy import Proxy
from tests.web import harness
from tests.web.harness import Backend, ProxyTest, Wire, eventually, reply

PATIENCE = 5.0
#: Tells whether a connection goes on: answered by the backend, and left out of what it saw.
PROBE = b"GET /probe HTTP/1.1\r\nHost: probe\r\n\r\n"
#: A backend's answer to which nothing has to be added.
FINE = reply(b"fine", 200, b"Date: then")
#: How FINE reaches the client.
FINE_RELAYED = b"HTTP/1.1 200 Fine\r\nDate: then\r\nContent-Length: 4\r\n\r\nfine"
OK = "200 Fine"

#: An answer of our own: what may vary is the date, and what the page says.
_OWN = re.compile(
    rb"HTTP/1\.1 (?P<status>\d{3} [ -~]+)\r\n"
    rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n"
    rb"(?P<allow>Allow: [A-Z, ]+\r\n)?"
    rb"Content-Type: text/html; charset=utf-8\r\n"
    rb"Cache-Control: no-store\r\n"
    rb"Content-Length: (?P<length>\d+)\r\n"
    rb"(?P<close>Connection: close\r\n)?"
    rb"\r\n(?P<page>.*)",
    re.DOTALL,
).fullmatch


class Row(NamedTuple):
    """One case. `what`: a name for it.

    `sent`: by the client. `status`: code and phrase of the final answer. `seen`: all bytes at the
    backend, None when it was not even connected. `then`: `kept`, `closed` (all read, end of stream;
    over TLS a close_notify) or `reset`.
    """

    what: str
    sent: bytes
    status: str
    seen: bytes | None = None
    then: str = "closed"


def request(
    line: bytes, *fields: bytes, framing: bytes = b"", body: bytes = b"", host: bytes = b"a"
) -> bytes:
    """A request as a backend has to get it from a client on the plain port."""
    lines = [
        line,
        *fields,
        b"X-Forwarded-For: 127.0.0.1",
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: " + host,
        *([framing] if framing else []),
        b"Connection: close",
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def over_tls(seen: bytes | None) -> bytes | None:
    """The same from a client on the TLS port."""
    return seen and seen.replace(b"X-Forwarded-Proto: http\r\n", b"X-Forwarded-Proto: https\r\n", 1)


def head(*lines: bytes) -> bytes:
    """A head of these lines."""
    return b"\r\n".join(lines) + b"\r\n\r\n"


class Recorder(Backend):
    """Answers one request a connection with `data`, then reads to the end of the connection.

    `ends`: how each connection ended. `data` may be a function of the request. `shuts`: it ends its
    own direction behind the answer.
    """

    def __init__(self, name: str, data: Any, port: int = 0) -> None:
        self.data = data
        self.shuts = False
        self.ends: list[str] = []
        super().__init__(name, self._serve, port)

    def _serve(self, wire: Wire) -> None:
        end = "reset"
        try:
            taken = self.take(wire)
            probe = taken.line.startswith(b"GET /probe ")
            data = self.data(taken) if callable(self.data) else self.data
            wire.send(FINE if probe else data)
            if self.shuts and not probe:
                wire.sock.shutdown(socket.SHUT_WR)
            end = wire.end()
        except EOFError:
            end = "eof"
        finally:
            self.ends.append(end)

    def saw(self) -> list[bytes]:
        """All bytes of each connection that has ended, probes left out."""
        eventually(lambda: len(self.ends) == len(self.connections), "the backend side ends")
        got = [bytes(wire.received) for wire in self.connections]
        return [data for data in got if not data.startswith(b"GET /probe ")]


class RuleTest(ProxyTest):
    """A test of a rule, row by row."""

    def setUp(self) -> None:
        super().setUp()
        self._failed: list[str] = []

    def serve(self, *backends: Any, web: dict[str, Any] | None = None, **options: Any) -> Proxy:
        """As in `ProxyTest`; `web`: more keys of `web`, `plain`: of its plain listener."""
        if web is None:
            return super().serve(*backends, **options)
        original = harness.configuration

        def configuration(*args: Any, **kwargs: Any) -> str:
            text = json.loads(original(*args, **kwargs))
            whole = text["array"]["web"]
            whole["listen"][0].update(web.get("plain", {}))
            whole.update({key: value for key, value in web.items() if key != "plain"})
            return json.dumps(text)

        with mock.patch.object(harness, "configuration", configuration):
            return super().serve(*backends, **options)

    def recorder(self, data: Any = FINE, name: str = "", port: int = 0) -> Recorder:
        """One more backend."""
        self._remember_descriptors()
        backend = Recorder(name or f"app{len(self.backends) + 1}", data, port)
        self.backends.append(backend)
        return backend

    @contextmanager
    def row(self, what: object) -> Iterator[None]:
        """What fails within is told by `done`, with its name."""
        try:
            yield
        except (AssertionError, OSError, EOFError, ValueError, IndexError) as error:
            self._failed.append(f"{what}: {type(error).__name__}: {error}")

    def done(self) -> None:
        """Fail if a row did."""
        if self._failed:
            self.fail(f"{len(self._failed)} rows:\n" + "\n".join(self._failed))

    def own(self, data: bytes, status: str, keep: bool = False, page: bool = True) -> bytes:
        """Fail unless `data` is a whole answer of our own; its page. `page` False: to HEAD."""
        match = _OWN(data)
        if match is None:
            raise AssertionError(f"expected an answer of our own with {status}, got {data!r}")
        self.assertEqual(match["status"].decode(), status)
        self.assertEqual(match["close"] is None, keep, "Connection: close")
        self.assertEqual(match["allow"] is not None, status.startswith("405"), "Allow")
        if page:
            self.assertEqual(len(match["page"]), int(match["length"]), "length of the page")
        else:
            self.assertEqual(match["page"], b"")
        return match["page"]

    def after(self, client: Wire) -> str:
        """What becomes of the connection: `kept` if a further request is answered."""
        try:
            client.send(PROBE)
            answer = client.response()
        except EOFError:
            return "closed"
        except OSError:
            return "reset"
        return "kept" if answer.body == b"fine" else f"answered {answer.line!r}"

    def check(self, rows: Iterator[Row] | tuple[Row, ...] | list[Row], backend: Recorder, **client):
        """Do the rows one by one. `client`: arguments of `self.client`."""
        for row in rows:
            with self.row(row.what):
                self.do(row, backend, **client)

    def do(self, row: Row, backend: Recorder, **options: Any) -> None:
        """One row."""
        before = len(backend.saw())
        connects = self.proxy.counters.backend_connects
        client = self.client(**options)
        client.sock.settimeout(PATIENCE)
        method = row.sent.lstrip(b"\r\n").partition(b" ")[0].decode("latin-1")
        # A refusal may come before all of it was sent. What the kernel takes at once is just sent:
        # no two threads in one TLS connection.
        sender = threading.Thread(target=_send, args=(client, row.sent))
        (sender.start if len(row.sent) > 64 * 1024 else sender.run)()
        try:
            answer = client.response(method)
            whole = bytes(client.received[: len(client.received) - len(client.unread)])
            self.assertEqual(answer.line.decode(), f"HTTP/1.1 {row.status}")
            ours = answer.get(b"Cache-Control") == b"no-store"
            if ours:
                self.own(whole, row.status, row.then == "kept", method != "HEAD")
            if row.seen is None:
                self.assertTrue(ours, whole)
                self.assertEqual(self.proxy.counters.backend_connects, connects, "connected")
            if row.then == "kept":
                self.assertEqual(self.after(client), "kept")
            else:
                self.assertEqual(client.end(), "eof" if row.then == "closed" else row.then)
            self.assertEqual(client.unread, b"", "more than one answer")
        finally:
            client.close()
            if sender.ident is not None:
                sender.join(PATIENCE)
        seen = backend.saw()[before:]
        expected = [] if row.seen is None else [row.seen]
        if "context" in options:
            expected = [over_tls(data) for data in expected]
        self.assertEqual(seen, expected, "what the backend saw")


def _send(client: Wire, data: bytes) -> None:
    try:
        client.send(data)
    except OSError:
        # Refused before its end.
        return
