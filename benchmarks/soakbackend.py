"""Serves what the soak's clients ask for, and writes down which bodies came whole.

    soakbackend.py NAME PORT JOURNAL

A program of its own, made to be killed: a line of JOURNAL is one system call, and several processes
may append to the same file. Every answer carries `X-Backend: NAME`.

===================  ===========================================================================
request              answer
===================  ===========================================================================
GET /bytes/N         N bytes with Content-Length; byte i is i modulo 251
GET /chunked/N       the same chunked
GET /slow/S          NAME after S seconds
POST /echo           JSON: length and SHA-256 of the body; the journal gets the request's X-Id
GET /upgrade         101, then every byte comes back
===================  ===========================================================================
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import sys
from typing import Final

__all__ = ["accept_key", "main", "pattern"]

PIECE: Final = 65536
PERIOD: Final = 251
_PATTERN: Final = bytes(range(PERIOD)) * (PIECE // PERIOD + 2)


def pattern(start: int, size: int) -> bytes:
    """`size` bytes (at most PIECE) of the body from byte `start` on."""
    phase = start % PERIOD
    return _PATTERN[phase : phase + size]


def accept_key(key: bytes) -> bytes:
    """Sec-WebSocket-Accept (RFC 6455 4.2.2)."""
    guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    return base64.b64encode(hashlib.sha1(key + guid).digest())


class Backend:
    """One backend web server."""

    def __init__(self, name: str, journal: int) -> None:
        self._name = name.encode()
        self._journal = journal

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, any number of requests."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while await self._request(reader, writer):
                pass
        with contextlib.suppress(OSError):
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *lines = head[:-4].split(b"\r\n")
        method, target, _ = line.split(b" ", 2)
        fields = {}
        for field in lines:
            name, _, value = field.partition(b":")
            fields[name.lower()] = value.strip()
        if target == b"/upgrade":
            await self._upgrade(fields, reader, writer)
            return False
        digest, length = await self._body(fields, reader)
        keep = fields.get(b"connection", b"").lower() != b"close"
        kind, _, value = target[1:].partition(b"/")
        if kind in (b"bytes", b"chunked"):
            await self._bytes(writer, method, int(value.partition(b"?")[0]), kind == b"chunked")
            return keep
        if kind == b"slow":
            await asyncio.sleep(float(value))
        body = self._name
        if kind == b"echo":
            identity = fields.get(b"x-id", b"-")
            os.write(self._journal, identity + b"\n")
            body = json.dumps({"length": length, "sha256": digest}).encode()
        writer.write(self._head(b"Content-Length: %d" % len(body)))
        if method != b"HEAD":
            writer.write(body)
        await writer.drain()
        return keep

    def _head(self, *lines: bytes, status: bytes = b"200 OK") -> bytes:
        lines = (b"HTTP/1.1 " + status, b"X-Backend: " + self._name, *lines)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    async def _body(
        self, fields: dict[bytes, bytes], reader: asyncio.StreamReader
    ) -> tuple[str, int]:
        digest, length = hashlib.sha256(), 0
        if b"transfer-encoding" in fields:
            while size := int((await reader.readuntil(b"\r\n"))[:-2], 16):
                data = await reader.readexactly(size + 2)
                digest.update(data[:-2])
                length += size
            while await reader.readuntil(b"\r\n") != b"\r\n":
                pass
        else:
            left = int(fields.get(b"content-length", b"0"))
            while left:
                data = await reader.read(min(left, PIECE))
                if not data:
                    raise asyncio.IncompleteReadError(b"", left)
                digest.update(data)
                length += len(data)
                left -= len(data)
        return digest.hexdigest(), length

    async def _bytes(
        self, writer: asyncio.StreamWriter, method: bytes, size: int, chunked: bool
    ) -> None:
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
        writer.write(self._head(framing))
        if method == b"HEAD":
            return
        sent = 0
        while sent < size:
            data = pattern(sent, min(PIECE, size - sent))
            sent += len(data)
            writer.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
            await writer.drain()
        if chunked:
            writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _upgrade(
        self,
        fields: dict[bytes, bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        accept = b"Sec-WebSocket-Accept: " + accept_key(fields.get(b"sec-websocket-key", b""))
        lines = (b"Connection: Upgrade", b"Upgrade: websocket", accept)
        writer.write(self._head(*lines, status=b"101 Switching Protocols"))
        while data := await reader.read(PIECE):
            writer.write(data)
            await writer.drain()


async def _run(name: str, port: int, journal: str) -> None:
    descriptor = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    backend = Backend(name, descriptor)
    server = await asyncio.start_server(backend.serve, "127.0.0.1", port, backlog=1024)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Read the command line and serve."""
    name, port, journal = sys.argv[1:]
    asyncio.run(_run(name, int(port), journal))


if __name__ == "__main__":
    main()
