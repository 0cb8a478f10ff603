"""The ways to end a client's connection. Broken answers are in test_exchange."""

import time

from dlba.web import ending
from dlba.web.ending import LINGER_BYTES
from tests.web.harness import MIB, ProxyTest, eventually, in_thread


class Ends(ProxyTest):
    """Lingering is bounded."""

    @in_thread
    def test_linger_ends_after_its_bytes(self):
        self.backend()
        self.serve()
        client = self.client()
        client.send(b"nonsense\r\n\r\n")
        self.assertEqual(client.response().status, 400)
        sent = 0
        with self.assertRaises(OSError):
            while sent < 64 * MIB:
                client.send(b"x" * 65536)
                sent += 65536
        self.assertGreaterEqual(sent, LINGER_BYTES // 2)

    @in_thread
    def test_linger_ends_after_its_seconds(self):
        self.backend()
        self.serve()
        client = self.client()
        client.send(b"nonsense\r\n\r\n")
        self.assertEqual((client.response().status, client.end()), (400, "eof"))
        begun = time.monotonic()
        # The client keeps its end open and silent.
        eventually(lambda: not self.proxy.clients, "the connection is closed")
        self.assertGreater(time.monotonic() - begun, 0.5)

    @in_thread
    def test_linger_ends_after_a_deadline_too(self):
        """The same behind a 408, which comes from the deadline itself."""
        self.patch(ending, "LINGER_SECONDS", 0.3)
        self.backend()
        self.serve(timeouts={"head": 0.2})
        client = self.client()
        client.send(b"GET")
        self.assertEqual((client.response().status, client.end()), (408, "eof"))
        eventually(lambda: not self.proxy.clients, "the connection is closed")
