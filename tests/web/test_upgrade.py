"""What may be offered to a backend, and what counts as the switch."""

from twisted.trial.unittest import SynchronousTestCase

from dlba.web.upgrade import offered, switched

WEBSOCKET = frozenset({b"websocket"})


class Offer(SynchronousTestCase):
    def test_only_what_is_allowed(self) -> None:
        for value, offer in (
            (b" websocket", b"websocket"),
            (b"WebSocket", b"WebSocket"),
            (b"h2c, websocket", b"websocket"),
            (b"websocket\t, websocket", b"websocket, websocket"),
            (b"h2c", b""),
            (b"websocket/13", b""),
            (b"websocketx, xwebsocket", b""),
            (b"", b""),
            (b",, ,", b""),
        ):
            self.assertEqual(offered(value, WEBSOCKET), offer, value)

    def test_nothing_is_allowed(self) -> None:
        self.assertEqual(offered(b"websocket", frozenset()), b"")


class Switch(SynchronousTestCase):
    def test_names_what_was_offered(self) -> None:
        for value, offer, good in (
            (b"websocket", b"websocket", True),
            (b" WEBSOCKET ", b"WebSocket", True),
            (b"b", b"a, b", True),
            (b"", b"websocket", False),
            (b",", b"websocket", False),
            (b"h2c", b"websocket", False),
            (b"websocket, h2c", b"websocket", False),
            (b"websocket", b"", False),
        ):
            self.assertEqual(switched(value, offer), good, (value, offer))
