"""TLS record by record: what scanners and fuzzers send, and which alert each gets.

The hellos are made by hand here, so that they can be wrong. RFC 8446 4.1.2, 5.1, 6; RFC 5246 7.2,
E.2; RFC 7301 3.2.
"""

import struct
from typing import NamedTuple

from tests.web.harness import ProxyTest, certificate, client_context, in_thread

NAME = b"shop.example.com"
SSL3, TLS10, TLS11, TLS12, TLS13 = 0x0300, 0x0301, 0x0302, 0x0303, 0x0304
CHANGE, ALERT, HANDSHAKE, DATA = 20, 21, 22, 23
FATAL = 2
#: Descriptions of alerts.
UNEXPECTED, RECORD_OVERFLOW, HANDSHAKE_FAILURE, ILLEGAL_PARAMETER = 10, 22, 40, 47
DECODE_ERROR, PROTOCOL_VERSION, MISSING_EXTENSION, NO_APPLICATION_PROTOCOL = 50, 70, 109, 120
#: ECDHE-ECDSA and ECDHE-RSA with AES128-GCM, then TLS_AES_128_GCM_SHA256.
SUITES = bytes.fromhex("c02bc02f1301")


class Record(NamedTuple):
    """One record as it came."""

    type: int
    version: int
    data: bytes


def vector(data: bytes, size: int) -> bytes:
    """`data` behind its length in `size` bytes."""
    return len(data).to_bytes(size, "big") + data


def extension(number: int, data: bytes) -> bytes:
    return struct.pack("!H", number) + vector(data, 2)


def hello(
    version: int = TLS12,
    *more: bytes,
    versions: tuple[int, ...] = (),
    suites: bytes = SUITES,
    compressions: bytes = b"\0",
    protocols: tuple[bytes, ...] = (),
) -> bytes:
    """A ClientHello message. `more`: extensions."""
    extensions = [
        extension(0, vector(b"\0" + vector(NAME, 2), 2)),
        extension(10, vector(bytes.fromhex("001d0017"), 2)),
        extension(11, b"\1\0"),
        extension(13, vector(bytes.fromhex("040308040401"), 2)),
    ]
    if versions:
        listed = b"".join(struct.pack("!H", one) for one in versions)
        extensions.append(extension(43, vector(listed, 1)))
    if protocols:
        names = b"".join(vector(name, 1) for name in protocols)
        extensions.append(extension(16, vector(names, 2)))
    body = (
        struct.pack("!H", version)
        + bytes(range(32))
        + b"\0"
        + vector(suites, 2)
        + vector(compressions, 1)
        + vector(b"".join((*extensions, *more)), 2)
    )
    return b"\1" + vector(body, 3)


def record(data: bytes, kind: int = HANDSHAKE, version: int = TLS10) -> bytes:
    return struct.pack("!BHH", kind, version, len(data)) + data


def records_of(data: bytes) -> list[Record]:
    """The records that `data` consists of."""
    found = []
    while data:
        kind, version, size = struct.unpack("!BHH", data[:5])
        found.append(Record(kind, version, data[5 : 5 + size]))
        data = data[5 + size :]
    return found


class RecordTest(ProxyTest):
    """A proxy with a TLS port."""

    def begin(self) -> None:
        self.backend()
        self.serve(tls=[certificate("ecdsa", NAME.decode())])

    def said(self, data: bytes) -> tuple[list[Record], str]:
        """The records that come for `data`, and how the connection ended."""
        client = self.client(port=self.tls_port)
        client.send(data)
        end = client.end()
        return records_of(bytes(client.received)), end

    def refused(self, data: bytes, *alerts: int) -> None:
        """`data` gets these fatal alerts and nothing else, then a clean end."""
        records, end = self.said(data)
        found = [(r.type, r.data) for r in records]
        self.assertEqual(found, [(ALERT, bytes((FATAL, alert))) for alert in alerts], data[:60])
        self.assertEqual(end, "eof", data[:60])

    def server_hello(self, data: bytes) -> Record:
        """The first record that answers a good hello."""
        client = self.client(port=self.tls_port)
        client.send(data)
        head = client.take(5)
        kind, version, size = struct.unpack("!BHH", head)
        found = Record(kind, version, client.take(size))
        client.close()
        return found

    def well(self) -> None:
        """Others are served, and nobody is left."""
        self.assertEqual(self.ask(context=client_context()).status, 200)


class Versions(RecordTest):
    @in_thread
    def test_old_versions_get_the_alert_that_says_so(self):
        self.begin()
        for data in (
            record(hello(SSL3), version=SSL3),
            record(hello(TLS10)),
            record(hello(TLS11)),
            record(hello(versions=(TLS11, TLS10))),
            record(hello(versions=(0x7F1C,))),
        ):
            self.refused(data, PROTOCOL_VERSION)
        self.soon(lambda: self.proxy.counters.handshakes_failed, 5)
        self.well()

    @in_thread
    def test_versions_to_come_are_no_fault(self):
        """RFC 8446 4.2.1, and what GREASE (RFC 8701) asks for."""
        self.begin()
        for versions in ((0x0A0A, TLS12), (0x0305, TLS12, TLS11), ()):
            found = self.server_hello(record(hello(TLS12, versions=versions)))
            self.assertEqual((found.type, found.data[4:6]), (HANDSHAKE, b"\x03\x03"))
        self.well()

    @in_thread
    def test_sslv2_and_records_of_no_version(self):
        """Whoever sends them knows no alert: the connection ends."""
        self.begin()
        sslv2 = "802e0100020015000000100100800300800700c0060040020080040080"
        for data in (
            bytes.fromhex(sslv2) + bytes(18),
            record(hello(), version=0x0400),
            record(hello(), version=0x0200),
            bytes(range(200)),
        ):
            self.refused(data)
        self.soon(lambda: self.proxy.counters.handshakes_failed, 4)
        self.well()


class Hellos(RecordTest):
    @in_thread
    def test_faulty_ones(self):
        self.begin()
        good = hello()
        for data, alert in (
            (hello(suites=b"\0\5"), HANDSHAKE_FAILURE),  # RC4
            (hello(compressions=b"\1"), ILLEGAL_PARAMETER),
            (hello(TLS12, extension(13, vector(b"\4\3", 2))), ILLEGAL_PARAMETER),  # twice
            (hello(versions=(TLS13,)), MISSING_EXTENSION),  # no key_share
            (b"\1" + vector(good[4:-7], 3), DECODE_ERROR),
            (b"\1\0\0\0", DECODE_ERROR),
            (b"\2" + good[1:], UNEXPECTED),
            (b"\1\xff\xff\xff" + bytes(16000), ILLEGAL_PARAMETER),  # 16 MiB announced
        ):
            self.refused(record(data), alert)
        self.well()

    @in_thread
    def test_alpn_without_ours(self):
        """RFC 7301 3.2."""
        self.begin()
        self.refused(record(hello(protocols=(b"h2", b"spdy/1"))), NO_APPLICATION_PROTOCOL)
        self.well()

    @in_thread
    def test_no_compression(self):
        """CRIME: a client that offers it gets none."""
        self.begin()
        found = self.server_hello(record(hello(compressions=b"\1\0")))
        session = found.data[38]
        suite_and_compression = found.data[39 + session : 42 + session]
        self.assertEqual(suite_and_compression, b"\xc0\x2b\0")

    @in_thread
    def test_in_pieces(self):
        """Of any size, in records and in the stream."""
        self.begin()
        data = hello()
        for size in (1, 3, 50):
            pieces = [data[start : start + size] for start in range(0, len(data), size)]
            self.assertEqual(self.server_hello(b"".join(map(record, pieces))).data[0], 2)
        client = self.client(port=self.tls_port)
        for byte in record(data):
            client.send(bytes((byte,)))
        self.assertEqual(client.take(3), b"\x16\x03\x03")

    @in_thread
    def test_long_ones(self):
        """Padded up to what one record holds, and over several."""
        self.begin()
        for size in (500, 12_000, 40_000):
            data = hello(TLS12, extension(21, bytes(size)))
            whole = [record(data[i : i + 16384]) for i in range(0, len(data), 16384)]
            self.assertEqual(self.server_hello(b"".join(whole)).data[0], 2, size)
        self.well()


class Records(RecordTest):
    @in_thread
    def test_what_comes_before_a_hello(self):
        self.begin()
        for data, alert in (
            (record(b"GET / HTTP/1.1", DATA, TLS12), UNEXPECTED),
            (record(b"\1", CHANGE, TLS12), UNEXPECTED),
            (record(b"x", 99), UNEXPECTED),
            (record(b"", ALERT), UNEXPECTED),
            (record(b"\1\0", ALERT), UNEXPECTED),
            (record(b"\2\x28", ALERT), UNEXPECTED),
            (record(b"\1\x5a", ALERT) * 100, UNEXPECTED),
            (struct.pack("!BHH", HANDSHAKE, TLS10, 65535) + bytes(65535), RECORD_OVERFLOW),
        ):
            self.refused(data, alert)
        self.soon(lambda: self.proxy.counters.handshakes_failed, 8)
        self.well()

    @in_thread
    def test_empty_ones(self):
        """A few are no fault (RFC 5246 6.2.1); a stream of them ends."""
        self.begin()
        empty = record(b"")
        self.assertEqual(self.server_hello(empty * 3 + record(hello())).data[0], 2)
        self.refused(empty * 1000, UNEXPECTED)
        self.well()

    @in_thread
    def test_who_sends_on_gets_the_alert_all_the_same(self):
        """web.md rule 10: a close with unread input would be a reset."""
        self.begin()
        self.refused(record(hello(TLS10)) + bytes(200_000), PROTOCOL_VERSION)
        self.well()

    @in_thread
    def test_two_hellos(self):
        """The second one is read where a key exchange belongs."""
        self.begin()
        records, end = self.said(record(hello()) + record(hello(), version=TLS12))
        self.assertEqual([r.data[1] for r in records if r.type == ALERT], [UNEXPECTED])
        self.assertEqual(end, "eof")
        self.well()
