"""The clients of the end-to-end tests: curl, one or many keep-alive connections, raw bytes."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import attrs
from parts import ENV, LOCAL, WAIT, program, wait_until

_MARK = "\x1e"
_WRITE_OUT = '{"info": %{json}, "headers": %{header_json}}' + _MARK


@attrs.frozen
class Reply:
    """One answer that curl got: `headers` by lower-case name, each a list of values."""

    status: int
    headers: dict[str, list[str]]
    body: bytes
    info: dict[str, Any]

    def header(self, name: str) -> str | None:
        """The one value of a header, None where it is absent."""
        values = self.headers.get(name.lower(), [])
        assert len(values) < 2, f"{name}: expected one, got {values}"
        return values[0] if values else None

    @property
    def backend(self) -> str | None:
        return self.header("X-Backend")

    @property
    def cookies(self) -> dict[str, str]:
        """Cookies that were set: name → value with attributes."""
        return dict(line.split("=", 1) for line in self.headers.get("set-cookie", []))

    def json(self) -> Any:
        return json.loads(self.body)

    def sent(self) -> list[tuple[str, str]]:
        """The header lines that `/echo` says reached the backend."""
        return [(name, value) for name, value in self.json()["headers"]]

    def sent_values(self, name: str) -> list[str]:
        return [value for key, value in self.sent() if key.lower() == name.lower()]


def curl_command(*args: str) -> list[str]:
    """curl that reads no configuration, speaks to no proxy and ends within a bound."""
    return [program("curl", "curl"), "-q", "-sS", "--noproxy", "*", "--globoff", *args]


def curls(urls: Sequence[str], *args: str, data: bytes = b"", seconds: float = WAIT) -> list[Reply]:
    """Fetch all `urls` in one run of curl, one after the other, over as few connections."""
    with tempfile.TemporaryDirectory() as folder:
        command = curl_command("-k", "--max-time", str(seconds), "-w", _WRITE_OUT)
        for number, url in enumerate(urls):
            command += ["-o", f"{folder}/{number}", url]
        done = subprocess.run(
            [*command, *args], input=data, capture_output=True, env=ENV, timeout=seconds + WAIT
        )
        assert not done.returncode, f"curl {urls} {args}: {done.returncode}: {done.stderr.decode()}"
        replies = []
        for number, text in enumerate(done.stdout.decode("utf-8").split(_MARK)[:-1]):
            out = json.loads(text)
            body = Path(f"{folder}/{number}")
            replies.append(
                Reply(
                    status=out["info"]["http_code"],
                    headers=out["headers"],
                    # For a HEAD curl writes the headers there.
                    body=body.read_bytes() if body.exists() and "-I" not in args else b"",
                    info=out["info"],
                )
            )
    assert len(replies) == len(urls)
    return replies


def curl(url: str, *args: str, data: bytes = b"", seconds: float = WAIT) -> Reply:
    """Fetch one URL."""
    return curls([url], *args, data=data, seconds=seconds)[0]


def raw(port: int, data: bytes) -> bytes:
    """Send `data` as it is to 127.0.0.1 and read until the other side closes."""
    with socket.create_connection((LOCAL, port), timeout=WAIT) as sock:
        sock.sendall(data)
        parts = []
        while part := sock.recv(65536):
            parts.append(part)
    return b"".join(parts)


def status(node: Any) -> dict[str, Any]:
    """The monitor's `/status`."""
    return curl(f"{node.monitor}/status").json()


def rows(node: Any, pool: str = "app") -> dict[str, dict[str, Any]]:
    """The backends of a pool in `/status`, by name."""
    return {row["name"]: row for row in status(node)["backends"] if row["pool"] == pool}


class Load:
    """Keep-alive clients, each with one connection for ever, that GET one URL until told to end.

    `answers`: (time, backend) in the order of arrival; `problems`: what no client should see.
    """

    def __init__(self, port: int, clients: int, target: str = "/", expected: bytes = b"") -> None:
        self.answers: list[tuple[float, str]] = []
        self.problems: list[str] = []
        self._port = port
        self._target = target
        self._expected = expected
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._client, args=(number,), daemon=True)
            for number in range(clients)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT)
        assert not any(thread.is_alive() for thread in self._threads), "a client hangs"

    def reach(self, count: int) -> None:
        """Wait until there are `count` more answers than now."""
        goal = len(self.answers) + count
        wait_until(f"{goal} answers", lambda: len(self.answers) >= goal or self.problems)
        assert not self.problems, self.problems[:5]

    def seen(self, since: float) -> set[str]:
        """The backends that have answered since a moment of time.monotonic()."""
        return {backend for at, backend in self.answers if at >= since}

    def _client(self, number: int) -> None:
        connection = http.client.HTTPConnection(LOCAL, self._port, timeout=WAIT)
        try:
            connection.connect()
            sock = connection.sock
            while not self._stop.is_set():
                asked = time.monotonic()
                connection.request("GET", self._target, headers={"X-Client": str(number)})
                response = connection.getresponse()
                body = response.read()
                if response.status != 200 or (self._expected and body != self._expected):
                    raise AssertionError(f"{response.status}: {body[:80]!r}")
                if connection.sock is not sock:
                    raise AssertionError("the connection was not kept")
                self.answers.append((asked, response.headers["X-Backend"]))
        except Exception as error:  # noqa: BLE001 - every kind of failure is what is looked for
            self.problems.append(f"client {number}: {error!r}")
        finally:
            connection.close()
