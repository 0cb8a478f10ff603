"""TLS over real sockets: versions, certificates, resumption, hostile clients, both kinds of end."""

import contextlib
import ctypes
import ctypes.util
import os
import socket
import ssl
import struct
import threading
import time
from pathlib import Path

import attrs
from cryptography import x509
from OpenSSL import SSL
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from dlba.config.values import TLSConfig
from dlba.web import tls
from dlba.web.tls import DATALESS_LIMIT, TLSStream
from tests.web.harness import (
    GET,
    MIB,
    ProxyTest,
    Wire,
    body_size,
    certificate,
    client_context,
    eventually,
    exchange_of,
    in_thread,
    reply,
)

NAME = "shop.example.com"


class TLSTest(ProxyTest):
    """A proxy with a plain and a TLS port and one ECDSA certificate."""

    def serve_tls(self, **options):
        return self.serve(tls=options.pop("tls", None) or [certificate("ecdsa", NAME)], **options)

    def half_close(self, client: Wire) -> None:
        """Send close_notify, wait for none."""
        client.sock.settimeout(0)
        try:
            client.sock.unwrap()
        except ssl.SSLWantReadError:
            pass
        client.sock.settimeout(20)


class Handshakes(TLSTest):
    """What is agreed upon."""

    @in_thread
    def test_versions(self):
        self.backend()
        self.serve_tls()
        for version, ciphers in (
            (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA"),
            (ssl.TLSVersion.TLSv1_3, "TLS_"),
        ):
            client = self.client(client_context(version))
            self.assertTrue(client.sock.cipher()[0].startswith(ciphers), client.sock.cipher())
            for _ in range(3):
                client.send(GET)
                self.assertEqual(client.response().status, 200)
        protocols = {request.get(b"X-Forwarded-Proto") for request in self.backends[0].requests}
        self.assertEqual(protocols, {b"https"})
        self.assertEqual(self.proxy.counters.handshakes, 2)
        self.soon(
            lambda: {(record.tls, record.port) for record in self.records}, {(True, self.tls_port)}
        )

    @in_thread
    def test_old_versions_and_ciphers_are_refused(self):
        self.backend()
        self.serve_tls()
        old = client_context()
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        weak = client_context(ssl.TLSVersion.TLSv1_2)
        weak.set_ciphers("AES128-SHA:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
        for context in (old, weak):
            with self.assertRaises((ssl.SSLError, ConnectionError)):
                self.client(context)
        self.soon(lambda: self.proxy.counters.handshakes_failed, 2)

    @in_thread
    def test_alpn(self):
        self.backend()
        self.serve_tls()
        for offered, agreed in (
            (["h2", "http/1.1"], "http/1.1"),
            (["http/1.1"], "http/1.1"),
            (["http/1.0", "http/1.1"], "http/1.1"),
            # curl --http1.0
            (["http/1.0"], "http/1.0"),
            ([], None),
        ):
            context = client_context()
            if offered:
                context.set_alpn_protocols(offered)
            self.assertEqual(self.client(context).sock.selected_alpn_protocol(), agreed)

    @in_thread
    def test_alpn_without_ours(self):
        """RFC 7301 3.2: the alert no_application_protocol, whichever context was chosen."""
        self.backend()
        self.serve_tls(tls=[certificate("ecdsa", NAME), certificate("ecdsa", "b.example.net")])
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for name in (None, NAME, "b.example.net"):
                context = client_context(version)
                context.set_alpn_protocols(["h2", "spdy/1"])
                with self.assertRaises(ssl.SSLError) as caught:
                    self.client(context, name=name)
                # Python has no name for OpenSSL's reason.
                self.assertIn("no application protocol", str(caught.exception))
        self.soon(lambda: self.proxy.counters.handshakes_failed, 6)
        # Nothing of it is left for the next ones.
        self.assertEqual(self.ask(context=client_context()).status, 200)

    @in_thread
    def test_resumption(self):
        self.backend()
        self.serve_tls()
        for number, version in enumerate((ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3), 1):
            context = client_context(version)
            client = self.client(context, name=NAME)
            client.send(GET)
            client.response()
            self.assertFalse(client.sock.session_reused)
            again = self.client(context, name=NAME, session=client.sock.session)
            again.send(GET)
            self.assertEqual(again.response().status, 200)
            self.assertTrue(again.sock.session_reused)
            self.assertEqual(self.proxy.counters.handshakes_resumed, number)

    def served(self, client: Wire) -> str:
        """The common name of the certificate that the client got."""
        leaf = x509.load_der_x509_certificate(client.sock.getpeercert(binary_form=True))
        return leaf.subject.rfc4514_string().removeprefix("CN=")

    @in_thread
    def test_server_name_chooses_the_certificate(self):
        self.backend()
        shop = certificate("ecdsa", NAME)
        wild = certificate("ecdsa", "*.example.net", "example.net")
        self.serve_tls(tls=[shop, wild])
        for name, expected in (
            (NAME, NAME),
            (NAME.upper(), NAME),
            ("a.example.net", "*.example.net"),
            ("example.net", "*.example.net"),
            ("a.b.example.net", NAME),  # a wildcard stands for one label; the first is the default
            ("nobody.example.org", NAME),
            (None, NAME),
        ):
            client = self.client(client_context(), name=name)
            self.assertEqual(self.served(client), f"ecdsa {expected}", name)
            client.send(GET)
            self.assertEqual(client.response().status, 200)

    @in_thread
    def test_rsa_and_ecdsa_side_by_side(self):
        self.backend()
        self.serve_tls(tls=[certificate("ecdsa", NAME), certificate("rsa", NAME)])
        for name in (NAME, None):
            for kind in ("RSA", "ECDSA"):
                context = client_context(ssl.TLSVersion.TLSv1_2)
                context.set_ciphers(f"ECDHE-{kind}-AES128-GCM-SHA256")
                client = self.client(context, name=name)
                self.assertEqual(self.served(client), f"{kind.lower()} {NAME}")

    @in_thread
    def test_the_first_is_the_default_whatever_the_kinds_of_key(self):
        self.backend()
        self.serve_tls(tls=[certificate("rsa", NAME), certificate("ecdsa", "b.example.org")])
        for name, expected in (
            (None, f"rsa {NAME}"),
            ("nobody.example.com", f"rsa {NAME}"),
            ("b.example.org", "ecdsa b.example.org"),
        ):
            self.assertEqual(self.served(self.client(client_context(), name=name)), expected)

    @in_thread
    def test_reload_touches_no_connection(self):
        """Other contexts are for handshakes to come; sessions go on."""
        self.backend()
        self.serve_tls()
        contexts = [client_context(v) for v in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)]
        clients = [self.client(context, name=NAME) for context in contexts]
        for client in clients:
            client.send(GET)
            client.response()
        new = certificate("ecdsa", "new.example.com")
        web = self.service._web
        config = web.listen[-1].tls.certificates[0]
        changed = type(config)(certificate=Path(new["certificate"]), key=Path(new["key"]))
        listen = attrs.evolve(web.listen[-1], tls=TLSConfig(certificates=(changed,)))
        web = attrs.evolve(web, listen=(*web.listen[:-1], listen))
        listener = self.service.listeners[-1]
        self.assertEqual(self.on_reactor(self.service.reload, web), [f"certificates of {listener}"])
        self.assertIs(self.service.listeners[-1], listener)
        for name in (NAME, None):
            again = self.client(client_context(), name=name)
            self.assertEqual(self.served(again), "ecdsa new.example.com")
        for context, client in zip(contexts, clients, strict=True):
            client.send(GET)
            self.assertEqual(client.response().status, 200)
            again = self.client(context, name=NAME, session=client.sock.session)
            self.assertTrue(again.sock.session_reused)


class Hostile(TLSTest):
    """Clients that don't speak TLS, or not long."""

    @in_thread
    def test_plain_http_to_the_tls_port(self):
        backend = self.backend()
        self.serve_tls()
        client = self.client(port=self.tls_port)
        client.send(GET)
        client.end()
        self.assertTrue(client.unread.startswith(b"HTTP/1.1 400 "), client.unread)
        self.assertIn(b"https://", client.unread)
        self.soon(lambda: self.proxy.counters.handshakes_failed, 1)
        self.assertEqual(backend.connections, [])

    @in_thread
    def test_silence_is_cut_by_the_handshake_deadline(self):
        self.backend()
        self.serve_tls(timeouts={"handshake": 0.3, "head": 60})
        silent = self.client(port=self.tls_port)
        begun = self.client(port=self.tls_port)
        begun.send(b"\x16\x03\x01\x02\x00\x01")
        for client in (silent, begun):
            client.end()
            self.assertEqual(client.unread, b"")
        self.soon(lambda: self.proxy.counters.handshakes_failed, 2)

    @in_thread
    def test_head_deadline_begins_behind_the_handshake(self):
        self.backend()
        self.serve_tls(timeouts={"head": 0.3})
        client = self.client(client_context())
        self.assertEqual(client.end(), "eof")

    @in_thread
    def test_client_goes_in_the_handshake(self):
        self.backend()
        self.serve_tls()
        for how in ("close", "reset"):
            client = self.client(port=self.tls_port)
            client.send(b"\x16\x03\x01\x02\x00\x01")
            eventually(lambda: self.proxy.clients, "the connection")
            getattr(client, how)()
            eventually(lambda: not self.proxy.clients, "its end")
        self.assertEqual(self.proxy.counters.handshakes_failed, 2)

    @in_thread
    def test_garbage_after_the_handshake(self):
        self.backend()
        self.serve_tls()
        client = self.client(client_context())
        raw = socket.socket(fileno=os.dup(client.sock.fileno()))
        try:
            raw.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        finally:
            raw.close()
        self.assertIn(client.end(), ("reset", "ragged"))
        eventually(lambda: not self.proxy.clients, "its end")

    @in_thread
    def test_no_renegotiation(self):
        """Of a TLS 1.2 client: refused, and nothing breaks for others."""
        self.backend()
        self.serve_tls()
        sock = socket.create_connection(("127.0.0.1", self.tls_port), 20)
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        connection = SSL.Connection(context, sock)
        connection.set_connect_state()
        sock.setblocking(True)
        try:
            connection.do_handshake()
            self.assertTrue(connection.renegotiate())
            with self.assertRaises(SSL.Error):
                connection.do_handshake()
                connection.sendall(GET)
                connection.recv(100)
        finally:
            sock.close()
        self.assertEqual(self.ask(context=client_context()).status, 200)

    @in_thread
    def test_end_without_close_notify_in_mid_request(self):
        backend = self.backend()
        self.serve_tls()
        client = self.client(client_context())
        client.send(GET[:-4])
        socket_ = self.only_client()
        eventually(lambda: socket_._front.heads.buffer, "the begun head")
        # Not that of SSLSocket, which would forget its keys.
        socket.socket.shutdown(client.sock, socket.SHUT_WR)
        self.assertEqual(client.response().status, 400)
        self.assertEqual(client.end(), "eof")
        eventually(lambda: not self.proxy.clients, "its end")
        self.assertEqual(backend.connections, [])

    @in_thread
    def test_end_without_close_notify_behind_a_whole_request(self):
        """It is answered, as over plain TCP."""
        go = threading.Event()

        def script(wire):
            wire.request()
            go.wait(20)
            wire.send(reply(b"late"))

        self.backend(script)
        self.serve_tls()
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            go.clear()
            client = self.client(client_context(version))
            client.send(GET)
            front = self.only_client()._front
            socket.socket.shutdown(client.sock, socket.SHUT_WR)
            eventually(lambda front=front: front.ended, "its end was heard")
            go.set()
            self.assertEqual(client.response().body, b"late")
            self.assertEqual(client.end(), "eof")
            eventually(lambda: not self.proxy.clients, "its end")

    @in_thread
    def test_body_cut_without_close_notify_is_not_taken_for_whole(self):
        backend = self.backend()
        self.serve_tls()
        client = self.client(client_context())
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
        front = self.only_client()._front
        eventually(lambda: body_size(front) == 4, "half of the body")
        client.sock.shutdown(socket.SHUT_WR)
        eventually(lambda: not self.proxy.clients, "its end")
        self.assertEqual(backend.connections, [])

    @contextlib.contextmanager
    def platform_client(self):
        """The platform's libssl and a TLS connection of its own to the proxy."""
        library = _libssl()
        sock = socket.create_connection(("127.0.0.1", self.tls_port), 20)
        # Blocking for libssl, and bounded all the same.
        sock.setblocking(True)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", 20, 0))
        context = library.SSL_CTX_new(library.TLS_client_method())
        connection = library.SSL_new(context)
        try:
            library.SSL_set_fd(connection, sock.fileno())
            self.assertEqual(library.SSL_connect(connection), 1)
            yield library, connection
        finally:
            library.SSL_free(connection)
            library.SSL_CTX_free(context)
            sock.close()

    @in_thread
    def test_key_update_flood(self):
        """The flood closes the connection, and holds up nobody meanwhile."""
        self.backend()
        self.serve_tls()
        with self.platform_client() as (library, connection):
            for _ in range(20 * DATALESS_LIMIT):
                # 0: SSL_KEY_UPDATE_NOT_REQUESTED, so no answer fills our buffers.
                if library.SSL_key_update(connection, 0) != 1:
                    break
                if library.SSL_do_handshake(connection) != 1:
                    break
            self.soon(lambda: self.proxy.counters.tls_floods_cut, 1)
            self.assertEqual(self.ask(context=client_context()).status, 200)

    @in_thread
    def test_handshake_flood(self):
        """A hello that comes a byte at a time is cut before its deadline, and counts once."""
        self.patch(tls, "DATALESS_LIMIT", 20)
        self.backend()
        self.serve_tls()
        client = self.client(port=self.tls_port)
        client.send(b"\x16\x03\x01\x20\x00\x01\x00\x1f\xfc\x03\x03")
        with contextlib.suppress(OSError):
            while not self.proxy.counters.tls_floods_cut:
                client.send(b"x")
                time.sleep(0.005)
        self.assertEqual(client.end(), "reset")
        counters = self.proxy.counters
        self.assertEqual((counters.tls_floods_cut, counters.handshakes_failed), (1, 0))

    @in_thread
    def test_few_key_updates_are_fine(self):
        self.backend()
        self.serve_tls()
        buffer = ctypes.create_string_buffer(4096)
        with self.platform_client() as (library, connection):
            for _ in range(3):
                # Half of the limit before each request: data in between begins the count anew.
                for _ in range(DATALESS_LIMIT // 2):
                    self.assertEqual(library.SSL_key_update(connection, 0), 1)
                    self.assertEqual(library.SSL_do_handshake(connection), 1)
                self.assertEqual(library.SSL_write(connection, GET, len(GET)), len(GET))
                size = library.SSL_read(connection, buffer, 4096)
                self.assertTrue(buffer.raw[:size].startswith(b"HTTP/1.1 200"), buffer.raw[:size])


def _libssl():
    """The platform's libssl, for what no Python binding sends."""
    name = ctypes.util.find_library("ssl")
    if name is None:
        raise SkipTest("no libssl on this machine to send key updates with")
    library = ctypes.CDLL(name)
    if not hasattr(library, "SSL_key_update"):
        raise SkipTest(f"{name} has no SSL_key_update")
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    for function, result, *arguments in (
        ("TLS_client_method", pointer),
        ("SSL_CTX_new", pointer, pointer),
        ("SSL_CTX_free", None, pointer),
        ("SSL_new", pointer, pointer),
        ("SSL_free", None, pointer),
        ("SSL_set_fd", integer, pointer, integer),
        ("SSL_connect", integer, pointer),
        ("SSL_do_handshake", integer, pointer),
        ("SSL_key_update", integer, pointer, integer),
        ("SSL_write", integer, pointer, ctypes.c_char_p, integer),
        ("SSL_read", integer, pointer, ctypes.c_char_p, integer),
    ):
        call = getattr(library, function)
        call.restype = result
        call.argtypes = arguments
    return library


class Data(TLSTest):
    """Large bodies, and the ends."""

    @in_thread
    def test_large_bodies_both_ways(self):
        def script(wire: Wire) -> None:
            wire.send(reply(wire.request().body))

        self.backend(script)
        self.serve_tls(timeouts={"body": 5, "write": 5})
        body = os.urandom(6 * MIB)
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            client = self.client(client_context(version), receive_buffer=16384)
            head = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
            # In odd pieces: records of many sizes.
            step = 50_021
            for start in range(0, len(body), step):
                client.send((head if not start else b"") + body[start : start + step])
            self.assertTrue(client.response().body == body)

    @in_thread
    def test_slow_reader(self):
        body = os.urandom(8 * MIB)
        self.backend().says(reply(body))
        self.serve_tls()
        client = self.client(client_context(), receive_buffer=16384)
        client.send(GET)
        socket_ = self.only_client()
        eventually(lambda: socket_.backlog, "a backlog")
        time.sleep(0.3)
        self.assertLess(socket_.backlog, 512 * 1024)
        self.assertTrue(client.response().body == body)
        client.send(GET)
        self.assertTrue(client.response().body == body)

    @in_thread
    def test_pipeline_in_one_record_and_byte_records(self):
        self.backend()
        self.serve_tls()
        client = self.client(client_context())
        client.send(GET * 30)
        for _ in range(30):
            self.assertEqual(client.response().status, 200)
        for byte in GET:
            client.send(bytes((byte,)))
        self.assertEqual(client.response().status, 200)

    @in_thread
    def test_clean_ends_send_close_notify(self):
        self.backend()
        self.serve_tls(timeouts={"idle": 0.3})
        for ask in (b"Connection: close\r\n", b""):
            client = self.client(client_context())
            client.send(GET[:-2] + ask + b"\r\n")
            self.assertEqual(client.response().status, 200)
            self.assertEqual((client.end(), client.unread), ("eof", b""))

    @in_thread
    def test_refusals_send_close_notify(self):
        self.backend()
        self.serve_tls()
        client = self.client(client_context())
        client.send(b"nonsense\r\n\r\n" + b"x" * 300_000)
        self.assertEqual(client.response().status, 400)
        self.assertEqual((client.end(), client.unread), ("eof", b""))

    @in_thread
    def test_broken_bodies_end_without_close_notify(self):
        seen = threading.Event()

        def script(wire: Wire) -> None:
            wire.request()
            wire.send(reply(b"", 200, b"Content-Length: 50", length=False) + b"half")
            seen.wait(20)

        self.backend(script)
        self.serve_tls()
        client = self.client(client_context())
        client.send(GET)
        client.until(b"half")
        seen.set()
        self.assertIn(client.end(), ("ragged", "reset"))

    @in_thread
    def test_half_close_by_close_notify_is_answered(self):
        go = threading.Event()

        def script(wire: Wire) -> None:
            wire.request()
            go.wait(20)
            wire.send(reply(b"late"))

        self.backend(script)
        self.serve_tls()
        # In memory, since Python's own sockets can't read on after their close_notify.
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = client_context().wrap_bio(incoming, outgoing)
        client = self.client(port=self.tls_port)

        def drive(operation):
            while True:
                try:
                    result = operation()
                    client.send(outgoing.read())
                    return result
                except ssl.SSLWantReadError:
                    client.send(outgoing.read())
                    data = client.more()
                    if not data:
                        raise EOFError from None
                    incoming.write(data)

        drive(tls.do_handshake)
        drive(lambda: tls.write(GET))
        front = self.only_client()._front
        eventually(lambda: exchange_of(front), "the request is under way")
        with self.assertRaises(ssl.SSLWantReadError):
            tls.unwrap()
        client.send(outgoing.read())
        eventually(lambda: front.ended, "the close_notify was seen")
        go.set()
        # What comes now are records: the response and the proxy's own close_notify.
        self.assertEqual(client.end(), "eof")
        self.assertEqual(self.record().termination, "--")
        self.assertGreater(len(client.unread), 100)

    @in_thread
    def test_same_cookie_over_http_and_https(self):
        """Rule 9: one mapping for both, so no Secure unless all listeners are TLS."""
        for _ in range(3):
            self.backend()
        self.serve_tls(site={"schedule": "cookie"})
        first = self.ask()
        line = first.all(b"Set-Cookie")[0]
        self.assertNotIn(b"Secure", line)
        request = GET[:-2] + b"Cookie: " + line.partition(b";")[0] + b"\r\n\r\n"
        for _ in range(4):
            response = self.ask(request, context=client_context())
            self.assertEqual((response.body, response.all(b"Set-Cookie")), (first.body, []))
            self.assertEqual(self.ask(request).body, first.body)

    @in_thread
    def test_secure_where_all_is_tls(self):
        self.backend()
        self.serve_tls(plain=False, site={"schedule": "cookie"})
        line = self.ask(context=client_context()).all(b"Set-Cookie")[0]
        self.assertTrue(line.endswith(b"; Secure"), line)


class Stream(SynchronousTestCase):
    """`TLSStream` alone, on a socket pair."""

    def setUp(self) -> None:
        mine, other = socket.socketpair()
        for sock in (mine, other):
            sock.setblocking(False)
            self.addCleanup(sock.close)
        files = certificate("ecdsa", NAME)
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.use_certificate_file(files["certificate"])
        context.use_privatekey_file(files["key"])
        self.stream = TLSStream(mine, context)
        self.peer = client_context().wrap_socket(other, do_handshake_on_connect=False)
        self.addCleanup(self.peer.close)
        done = False
        for _ in range(10):
            try:
                self.peer.do_handshake()
                if done:
                    break
            except ssl.SSLWantReadError:
                pass
            done = done or self.stream.handshake()
        self.assertTrue(done)

    def test_dataless_reads_are_counted(self):
        for _ in range(DATALESS_LIMIT):
            self.assertIsNone(self.stream.read(16384))
        self.assertFalse(self.stream.flooded)
        with self.assertRaises(OSError):
            self.stream.read(16384)
        self.assertTrue(self.stream.flooded)

    def test_data_begins_the_count_anew(self):
        for _ in range(2):
            for _ in range(DATALESS_LIMIT - 1):
                self.stream.read(16384)
            self.peer.send(b"x")
            self.assertEqual(self.stream.read(16384), b"x")
        self.assertFalse(self.stream.flooded)

    def test_auto_retry_is_cleared(self):
        # Clearing nothing returns what is set.
        mode = SSL._lib.SSL_clear_mode(self.stream._ssl._ssl, 0)
        self.assertTrue(mode & SSL._lib.SSL_MODE_ENABLE_PARTIAL_WRITE)
        self.assertFalse(mode & SSL._lib.SSL_MODE_AUTO_RETRY)

    def test_write_takes_what_goes_and_the_rest_comes_again(self):
        data = os.urandom(4 * MIB)
        sent = 0
        received = bytearray()
        view = memoryview(data)
        while sent < len(data):
            taken = self.stream.write(view[sent:])
            sent += taken
            if not taken:
                self.assertEqual(self.stream.write(view[sent:]), 0)
                received += self.peer.recv(MIB)
        while len(received) < len(data):
            received += self.peer.recv(MIB)
        self.assertTrue(received == data)

    def test_nothing_after_a_fatal_error(self):
        raw = socket.socket(fileno=os.dup(self.peer.fileno()))
        raw.recv(10_000)  # session tickets
        raw.send(b"garbage that is no record at all")
        with self.assertRaises(OSError):
            self.stream.read(16384)
        raw.setblocking(False)
        # One alert of OpenSSL's own; then nothing, not even by `close`.
        before = raw.recv(1000)
        self.stream.close()
        try:
            after = raw.recv(1000)
        except ConnectionResetError:  # closed with the rest of the garbage unread
            after = b""
        raw.close()
        self.assertLess(len(before), 100)
        self.assertEqual(after, b"")

    def test_resumed(self):
        self.assertFalse(self.stream.resumed)
