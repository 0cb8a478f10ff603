"""Accepting: binding, limits, and the lack of descriptors."""

import contextlib
import errno
import re
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from dlba.web import listener as listener_module
from dlba.web.listener import bind
from tests.web.harness import GET, ProxyTest, certificate, configuration, eventually, in_thread


class Binding(SynchronousTestCase):
    """`bind` alone."""

    def bound(self, address: str | None, port: int = 0) -> socket.socket:
        sock = bind(address, port)
        self.addCleanup(sock.close)
        return sock

    def test_one_address(self):
        sock = self.bound("127.0.0.1")
        self.assertEqual(sock.getsockname()[0], "127.0.0.1")
        self.assertFalse(sock.getblocking())
        self.assertFalse(sock.get_inheritable())

    def test_all_addresses_of_both_families(self):
        sock = self.bound(None)
        port = sock.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), 10).close()
        if sock.family == socket.AF_INET6:
            socket.create_connection(("::1", port), 10).close()

    def test_ipv6_alone(self):
        try:
            sock = self.bound("::1")
        except OSError:
            raise SkipTest("no IPv6 on this machine's loopback") from None
        self.assertEqual(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY), 1)

    def test_taken(self):
        port = self.bound("127.0.0.1").getsockname()[1]
        for address in ("127.0.0.1", None):
            with self.assertRaises(OSError) as caught:
                bind(address, port)
            self.assertEqual(caught.exception.errno, errno.EADDRINUSE)

    def test_not_ours(self):
        with self.assertRaises(OSError) as caught:
            bind("192.0.2.1", 0)
        self.assertEqual(caught.exception.errno, errno.EADDRNOTAVAIL)

    def test_accepted_sockets_inherit_what_they_need(self):
        listener = self.bound("127.0.0.1")
        client = socket.create_connection(listener.getsockname(), 10)
        self.addCleanup(client.close)
        listener.setblocking(True)
        accepted, _ = listener.accept()
        self.addCleanup(accepted.close)
        self.assertTrue(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        self.assertTrue(accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        self.assertEqual(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 100)
        self.assertEqual(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL), 75)

    def test_keepalive_that_fits_a_bucket(self):
        sock = listener_module.bind("127.0.0.1", 0, keepalive=2)
        self.addCleanup(sock.close)
        self.assertEqual(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 2)
        self.assertEqual(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL), 2)

    def test_keepalive_longer_than_the_kernel_takes(self):
        sock = listener_module.bind("127.0.0.1", 0, keepalive=366 * 86400 // 3)
        self.addCleanup(sock.close)
        self.assertEqual(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 32767)


class Limits(ProxyTest):
    """How many clients there may be."""

    @in_thread
    def test_per_client(self):
        self.backend()
        self.serve(limits={"per_client": 3})
        clients = [self.client() for _ in range(3)]
        eventually(lambda: len(self.proxy.clients) == 3, "three connections")
        for _ in range(2):
            self.assertIn(self.client().end(), ("eof", "reset"))
        self.assertEqual(self.proxy.counters.connections_refused, 2)
        for client in clients:
            client.send(GET)
            self.assertEqual(client.response().status, 200)
        clients[0].close()
        eventually(lambda: len(self.proxy.clients) == 2, "one has gone")
        self.assertEqual(self.ask().status, 200)

    @in_thread
    def test_connections_wait_at_the_limit(self):
        # It is the end of a client that makes room, not the look now and then.
        self.patch(listener_module, "RETRY", 600.0)
        self.backend()
        self.serve(limits={"connections": 2})
        first, second = self.client(), self.client()
        eventually(lambda: len(self.proxy.clients) == 2, "two connections")
        third = self.client()
        third.send(GET)
        third.sock.settimeout(0.4)
        with self.assertRaises(TimeoutError):
            third.more()
        self.assertEqual(len(self.proxy.clients), 2)
        self.assertGreaterEqual(self.proxy.counters.accepts_paused, 1)
        # Those who are in are served meanwhile.
        second.send(GET)
        self.assertEqual(second.response().status, 200)
        first.close()
        third.sock.settimeout(20)
        self.assertEqual(third.response().status, 200)

    @in_thread
    def test_limit_is_shared_by_all_ports(self):
        self.backend()
        self.serve(limits={"connections": 1}, tls=[certificate("ecdsa", "a.example.com")])
        first = self.client()
        eventually(lambda: self.proxy.clients, "one connection")
        second = self.client(port=self.tls_port)
        time.sleep(0.3)
        self.assertEqual(len(self.proxy.clients), 1)
        first.close()
        eventually(lambda: any(c.tls for c in tuple(self.proxy.clients)), "the other port's")
        second.close()

    @in_thread
    def test_no_spinning_while_paused(self):
        """A waiting connection isn't told again and again."""
        self.backend()
        self.serve(limits={"connections": 1})
        first = self.client()
        eventually(lambda: self.proxy.clients, "one connection")
        self.client()
        eventually(lambda: self.proxy.counters.accepts_paused, "a pause")
        begun = self.proxy.counters.accepts_paused
        used = time.process_time()
        time.sleep(0.5)
        self.assertLess(self.proxy.counters.accepts_paused - begun, 10)
        self.assertLess(time.process_time() - used, 0.3)
        first.close()


class Accepting(ProxyTest):
    """Errors of accept."""

    @in_thread
    def test_many_at_once(self):
        """More than one wake's worth."""
        self.backend()
        self.serve()
        clients = [self.client() for _ in range(200)]
        for client in clients:
            client.send(GET)
        for client in clients:
            self.assertEqual(client.response().status, 200)

    @in_thread
    def test_error_of_one_connection(self):
        """ECONNABORTED and its like end nothing."""
        self.backend()
        self.serve()
        listener = self.service.listeners[0]
        original = listener._socket
        errors = [errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.EMFILE]

        class Failing:
            def __getattr__(self, name):
                return getattr(original, name)

            def _accept(self):
                if errors:
                    raise OSError(errors.pop(0), "failed")
                return original._accept()

        listener._socket = Failing()
        self.assertEqual(self.ask().status, 200)
        self.assertEqual(errors, [])
        self.assertEqual(self.proxy.counters.accepts_paused, 1)

    @in_thread
    def test_epoll_is_full(self):
        """fs.epoll.max_user_watches: that connection ends, nothing is left of it."""
        self.backend()
        self.serve()
        full = mock.Mock(side_effect=OSError(errno.ENOSPC, "full"))
        with mock.patch.object(self.proxy.poller, "add", full):
            with contextlib.suppress(ConnectionError):
                client = self.client()
                self.assertIn(client.end(), ("eof", "reset"))
            self.on_reactor(lambda: None)  # the turn in which that happened is over
        self.expected_internal_errors = self.proxy.counters.internal_errors
        self.flushLoggedErrors(OSError)
        eventually(lambda: not self.proxy.clients, "its end")
        self.assertEqual(self.ask().status, 200)


SCRIPT = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))
from twisted.internet import reactor
from dlba.config.load import load_text
from dlba.web.service import WebService
from dlba.config.keys import SecretKey
from pathlib import Path
web = load_text(sys.stdin.read(), Path("/"), "<test>").array.web
service = WebService(reactor, web, None, (SecretKey("a", b"0" * 32),), None)
service.privilegedStartService()
service.proxy.connections_limit = 10_000
service.startService()
def tell():
    c = service.proxy.counters
    print("state", len(service.proxy.clients), c.accepts_paused, c.own_connect_failures,
          c.internal_errors, [b.failed for b in service.proxy.backends()], flush=True)
    reactor.callLater(0.1, tell)
print("port", service.listeners[0].port, flush=True)
tell()
reactor.run()
"""


class NoDescriptors(ProxyTest):
    """A process of its own with 160 descriptors."""

    @in_thread
    def test_emfile_is_survived(self):
        backend = self.backend()
        text = configuration([backend], limits={"connections": 10_000})
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        try:
            process.stdin.write(text)
            process.stdin.close()
            port = int(process.stdout.readline().removeprefix("port "))

            def state(wanted) -> list[int]:
                """Wait for a line that is `wanted`."""
                end = time.monotonic() + 20
                while time.monotonic() < end:
                    if select.select([process.stdout], [], [], 5)[0]:
                        line = process.stdout.readline()
                        numbers = [int(n) for n in re.findall(r"\d+", line.partition("[")[0])]
                        if wanted(numbers):
                            self.assertNotIn("True", line)
                            return numbers
                raise AssertionError("never came")

            clients = [self.client(port=port) for _ in range(250)]
            state(lambda numbers: numbers[1] > 0 and numbers[0] > 100)
            # Nothing is left for a backend: that is no backend's fault.
            clients[0].send(GET)
            self.assertEqual(clients[0].response().status, 503)
            for client in clients[1:]:
                client.close()
            eventually_numbers = state(lambda numbers: numbers[0] == 1)
            self.assertEqual(eventually_numbers[2:], [1, 0])
            clients[0].send(GET)
            self.assertEqual(clients[0].response().status, 200)
            fresh = self.client(port=port)
            fresh.send(GET)
            self.assertEqual(fresh.response().status, 200)
        finally:
            process.kill()
            process.wait(20)
            process.stdout.close()
