"""web.md rule 8: a final response that comes before the request is fully sent.

It is relayed at once, then the connection closes; what the client does meanwhile takes nothing from
it. Shown elsewhere: tests.web.test_exchange `test_early_final_response`,
`test_answer_and_reset_before_the_upload_was_read`; over TLS, test_rule_10_ends.
"""

import socket
import threading
from collections.abc import Callable

from tests.web.harness import Wire, in_thread
from tests.web.rules.table import PATIENCE, RuleTest, head

HOST = b"Host: a"
LARGE = b"HTTP/1.1 413 Large\r\nDate: then\r\nContent-Length: 10\r\n"
GOT = LARGE + b"Connection: close\r\n\r\nhelloworld"


class Early(RuleTest):
    """Half of the answer comes, the client does something, the other half comes."""

    def answered(self, act: Callable[[Wire], None], sent: bytes, **timeouts: float) -> None:
        """Fail unless the client gets all of the answer, then a clean end."""
        go = threading.Event()

        def script(wire: Wire) -> None:
            wire.until(b"\r\n\r\n")
            wire.send(LARGE + b"\r\nhello")
            assert go.wait(20)
            wire.send(b"world")
            ends.append(wire.end())

        ends: list[str] = []
        backend = self.backend(script)
        self.serve(backend, site={"request_buffer": 0}, timeouts={"response": 30} | timeouts)
        client = self.client()
        client.sock.settimeout(PATIENCE)
        client.send(sent)
        try:
            client.take(len(GOT) - 5)
            act(client)
        finally:
            go.set()
        try:
            self.assertEqual(client.end(), "eof")
            self.assertEqual(bytes(client.received), GOT)
            self.soon(lambda: ends, ["reset"])
        finally:
            client.close()
            self.on_reactor(self.service.stopService)

    def pause(self, seconds: float) -> None:
        threading.Event().wait(seconds)

    @in_thread
    def test_whatever_the_client_does_meanwhile(self):
        upload = head(b"PUT / HTTP/1.1", HOST, b"Content-Length: 1000") + b"xx"
        coded = head(b"PUT / HTTP/1.1", HOST, b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n"

        def half_closes(client: Wire) -> None:
            client.sock.shutdown(socket.SHUT_WR)
            self.pause(0.2)

        def breaks_the_coding(client: Wire) -> None:
            client.send(b"zz\r\n")
            self.pause(0.2)

        for what, act, sent, timeouts in (
            ("goes on", lambda client: client.send(b"x" * 500), upload, {}),
            ("half-closes", half_closes, upload, {}),
            ("half-closes in a chunk", half_closes, coded, {}),
            ("sends a bad chunk", breaks_the_coding, coded, {}),
            ("stops sending", lambda client: self.pause(0.7), upload, {"body": 0.3}),
        ):
            with self.row(what):
                self.answered(act, sent, **timeouts)
        self.done()
