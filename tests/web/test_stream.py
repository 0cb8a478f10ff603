"""Plain streams on a socket pair."""

import socket
import time

from twisted.trial.unittest import SynchronousTestCase

from dlba.web.stream import READ_SIZE, PlainStream, discard, reset, untaken


class Plain(SynchronousTestCase):
    """`PlainStream` keeps the interface's word."""

    def setUp(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.peer = socket.create_connection(listener.getsockname(), 10)
        self.mine, _ = listener.accept()
        listener.close()
        self.mine.setblocking(False)
        self.addCleanup(self.mine.close)
        self.addCleanup(self.peer.close)
        self.stream = PlainStream(self.mine)

    def readable(self, size: int = READ_SIZE) -> bytes | None:
        """What `read` says once something is there."""
        self.mine.settimeout(10)
        self.mine.recv(1, socket.MSG_PEEK)
        self.mine.setblocking(False)
        return self.stream.read(size)

    def test_no_handshake(self):
        self.assertTrue(self.stream.handshake())
        self.assertFalse(self.stream.wants_write)

    def test_read(self):
        self.assertIsNone(self.stream.read(10))
        self.peer.sendall(b"hello")
        self.assertEqual(self.readable(3), b"hel")
        self.assertEqual(self.stream.read(10), b"lo")
        self.assertIsNone(self.stream.read(10))
        self.peer.shutdown(socket.SHUT_WR)
        self.assertEqual(self.readable(), b"")

    def test_read_of_a_broken_connection(self):
        reset(self.peer)
        with self.assertRaises(OSError):
            while True:
                self.readable()

    def test_write_until_there_is_no_room(self):
        taken = 0
        while more := self.stream.write(b"x" * 65536):
            taken += more
        self.assertGreater(taken, 0)
        self.assertEqual(self.stream.write(b"x"), 0)

    def test_write_to_a_broken_connection(self):
        reset(self.peer)
        with self.assertRaises(OSError):
            for _ in range(100):
                self.stream.write(b"x")

    def test_end_then_discard(self):
        self.stream.end()
        self.assertEqual(self.peer.recv(10), b"")
        self.assertIsNone(self.stream.discard())
        self.peer.sendall(b"still sending")
        self.mine.settimeout(10)
        self.mine.recv(1, socket.MSG_PEEK)
        self.mine.setblocking(False)
        self.assertEqual(self.stream.discard(), 13)
        self.assertIsNone(discard(self.mine))
        self.peer.close()
        self.mine.settimeout(10)
        self.mine.recv(1, socket.MSG_PEEK)
        self.mine.setblocking(False)
        self.assertEqual(self.stream.discard(), 0)

    def test_close_is_clean(self):
        self.stream.write(b"last words")
        self.stream.close()
        self.assertEqual(self.peer.recv(100), b"last words")
        self.assertEqual(self.peer.recv(100), b"")
        self.assertEqual(self.mine.fileno(), -1)

    def test_reset_is_seen(self):
        self.stream.write(b"x")
        self.stream.reset()
        with self.assertRaises(ConnectionResetError):
            self.peer.recv(100)
            self.peer.recv(100)
        self.assertEqual(self.mine.fileno(), -1)

    def test_what_the_peer_leaves_in_the_kernel(self):
        self.assertEqual(untaken(self.mine.fileno()), 0)
        sent = 0
        while taken := self.stream.write(bytes(65536)):
            sent += taken
        left = untaken(self.mine.fileno())
        self.assertTrue(0 < left < sent, (left, sent))
        while sent:
            sent -= len(self.peer.recv(sent))
        end = time.monotonic() + 10
        # The peer's kernel may take a moment to say so.
        while untaken(self.mine.fileno()) and time.monotonic() < end:
            time.sleep(0.005)
        self.assertEqual(untaken(self.mine.fileno()), 0)
