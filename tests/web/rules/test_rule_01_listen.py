"""web.md rule 1: which ports are bound, and how many clients are let in.

Shown elsewhere:
- a port that can't be had stops the start: tests.web.test_service `Start`; with exit code 1:
  tests.test_tap `test_port_taken`
- RLIMIT_NOFILE is raised, `max_connections` derives from it: tests.web.test_service
  `test_descriptor_limit`, `test_automatic_limit_leaves_room_for_backends`
- at the limit and on EMFILE the listener waits: tests.web.test_listener `Limits`, `NoDescriptors`
- on the VIP: tests.config.test_checks `test_vip_is_the_address_of_listeners`, tests.e2e
"""

import socket

from tests.web.harness import Wire, certificate, client_context, in_thread
from tests.web.rules.table import FINE_RELAYED, OK, Row, RuleTest, head, request

GET = head(b"GET / HTTP/1.1", b"Host: a")
SEEN = request(b"GET / HTTP/1.1", b"Host: a")


class Listen(RuleTest):
    """Plain and TLS ports."""

    @in_thread
    def test_on_plain_and_tls_ports(self):
        backend = self.recorder()
        self.serve(tls=[certificate("ecdsa", "a.example.com")])
        row = Row("a port", GET, OK, SEEN, "kept")
        self.check([row], backend)
        self.check([row], backend, context=client_context())
        self.done()

    @in_thread
    def test_on_the_named_address_alone(self):
        self.recorder()
        self.serve()
        with socket.socket() as sock:
            # Loopback is 127.0.0.0/8: another address of this machine.
            with self.assertRaises(ConnectionRefusedError):
                sock.connect(("127.0.0.2", self.port))
        self.assertEqual(self.ask(GET).status, 200)

    @in_thread
    def test_at_most_64_accepts_a_wake(self):
        backend = self.recorder()
        self.serve()
        listener = self.service.listeners[0]

        def wake() -> list[int]:
            """In one turn of the reactor: 150 clients come, and the listener hears of it thrice."""
            for _ in range(150):
                sock = socket.create_connection(("127.0.0.1", self.port))
                self.clients.append(Wire(sock))
            accepted = []
            for _ in range(3):
                listener.on_event(1)
                accepted.append(self.proxy.counters.connections_accepted)
            return accepted

        self.assertEqual(self.on_reactor(wake), [64, 128, 150])
        for client in self.clients:
            client.send(GET)
        for client in self.clients:
            self.assertEqual(client.take(len(FINE_RELAYED)), FINE_RELAYED)
        self.assertEqual(backend.saw(), [SEEN] * 150)
