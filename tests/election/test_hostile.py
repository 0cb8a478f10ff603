"""What strangers, and nodes that break the rules, do to a channel: nothing to the others.

Over real sockets and real TLS, as tests.election.test_channel; each test ends with a proof that the
channel between the two nodes that keep the rules has not even noticed.
"""

import os
import time
from pathlib import Path

from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.internet.task import deferLater
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.spread import banana
from zope.interface import implementer

from dlba.election import connection
from dlba.election.authority import issue
from dlba.election.credentials import Current, load
from dlba.election.hello import pack
from dlba.election.listener import EACH_LIMIT
from dlba.election.messages import Grant
from tests.election.certificates import files, forge, make
from tests.election.test_channel import Case, certificates


@implementer(IHandshakeListener)
class Raw(Protocol):
    """Speaks only what it is told to."""

    def __init__(self):
        self.data = b""
        self.shaken = Deferred()
        self.over = False

    def handshakeCompleted(self):
        self.shaken.callback(self)

    def dataReceived(self, data):
        self.data += data

    def connectionLost(self, reason):
        self.over = True

    def say(self, *expressions):
        """The dialect, the version, and then these."""
        for each in (b"pb", [b"version", 6], *expressions):
            self.transport.write(banana.encode(each))


class Anonymous:
    """TLS without a certificate, for `Current`."""

    def connection(self):
        return SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)


def call(method, *arguments, number=1, name=b"root"):
    return [b"message", number, name, method, 1, [b"tuple", *arguments], [b"dictionary"]]


class HostileCase(Case):
    def setUp(self):
        super().setUp()
        self.raws = []

    async def ready(self, **options):
        """Nodes a and b, connected; the hostile ones are c or nobody."""
        self.a, self.b = (self.channel(number, **options) for number in (0, 1))
        self.said = []
        self.patch(self.a._notes, "say", lambda *words: self.said.append(words))
        self.start(self.a, self.b)
        await self.until(lambda: 1 in self.a.told.connected and 0 in self.b.told.connected)

    async def dial(self, credentials=None):
        """A connection to a: TLS with `credentials`, or none at all; once TCP is there."""
        raw = Raw()
        self.raws.append(raw)
        factory = ClientFactory.forProtocol(lambda: raw)
        if credentials is not None:
            factory = TLSMemoryBIOFactory(Current(lambda: credentials), True, factory)
        reactor.connectTCP("127.0.0.1", self.ports[0], factory)
        await self.until(lambda: raw.transport is not None)
        return raw

    async def node(self):
        """A connection with the right certificate of c, and TLS done."""
        raw = await self.dial(load(files(self.folder, "c")))
        await raw.shaken
        return raw

    async def unharmed(self):
        """a and b still have the connection that they had, and a gives a's places back."""
        self.assertEqual(self.a.told.of("down") + self.b.told.of("down"), [])
        before = len(self.a.told.of("message"))
        self.assertTrue(self.b.send(0, Grant(term=before)))
        await self.until(lambda: len(self.a.told.of("message")) > before)
        self.assertEqual({number for number, _ in self.a.told.of("message")}, {1})
        for raw in self.raws:
            if not raw.over:
                raw.transport.abortConnection()
        await self.until(lambda: all(raw.over for raw in self.raws))
        await self.until(lambda: not self.a._listener._places)
        self.assertEqual(len(self.a._connections), 1)
        self.assertEqual(self.flushLoggedErrors(), [])

    def reasons(self):
        return [text for kind, _, text in self.said if kind == "refused"]

    async def refused(self, words, raw):
        await self.until(lambda: raw.over, "the end of the connection")
        await self.until(lambda: any(words in text for text in self.reasons()), words)
        self.assertEqual(raw.data, b"", "banana before the certificate was checked")


class CertificateTests(HostileCase):
    async def stranger(self, credentials, words):
        await self.ready()
        await self.refused(words, await self.dial(credentials))
        await self.unharmed()

    async def test_none(self):
        await self.stranger(Anonymous(), "TLS: peer did not return a certificate")

    async def test_of_another_authority(self):
        folder = Path(self.mktemp())
        make(folder, "c")
        own = load(files(folder, "c", authority=self.folder))
        await self.stranger(own, "expected one of the array's authority, got one of another auth")

    async def forged(self, words, **how):
        folder = certificates()
        forge(folder, "forged", **{"names": ("c",), **how})
        await self.stranger(load(files(folder, "forged")), words)

    async def test_expired(self):
        await self.forged("got one that has expired", days=(-9, -1))

    async def test_not_valid_yet(self):
        await self.forged("got one that isn't valid yet", days=(1, 9))

    async def test_of_another_array(self):
        await self.forged('certificate: expected the array shop, got "test"', array="test")

    async def test_for_servers_only(self):
        uses = [ExtendedKeyUsageOID.SERVER_AUTH]
        await self.forged("got one for another purpose", uses=uses)

    async def test_of_nobody(self):
        await self.forged("expected the name of another node of the array, got", names=("x",))

    async def test_of_several_nodes(self):
        await self.forged("expected the name of another node of the array", names=("b", "c"))

    async def test_an_operators(self):
        folder = certificates()
        if not (folder / "ann.pem").exists():
            issue(folder, "ann", True, time.time())
        await self.stranger(load(files(folder, "ann")), "got an operator's")

    async def test_our_own(self):
        await self.stranger(load(files(self.folder, "a")), "expected the name of another node")

    async def test_of_a_lower_number(self):
        await self.ready()
        raw = Raw()
        tls = TLSMemoryBIOFactory(
            Current(lambda: load(files(self.folder, "a"))),
            True,
            ClientFactory.forProtocol(lambda: raw),
        )
        self.raws.append(raw)
        reactor.connectTCP("127.0.0.1", self.ports[1], tls)
        await self.until(lambda: raw.over)
        self.assertEqual(raw.data, b"")
        await self.unharmed()

    async def test_old_tls(self):
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)

        class Old:
            def connection(self):
                return SSL.Connection(context, None)

        await self.stranger(Old(), "TLS: unsupported protocol")


class GarbageTests(HostileCase):
    async def test_instead_of_tls(self):
        await self.ready()
        for garbage in (
            b"GET / HTTP/1.0\r\n\r\n",
            os.urandom(100_000),
            b"\x16\x03\x01\xff\xff" * 9,
        ):
            raw = await self.dial()
            raw.transport.write(garbage)
            if not garbage.startswith(b"\x16"):
                await self.until(lambda raw=raw: raw.over)
        self.assertTrue(self.reasons())
        await self.unharmed()

    async def broken(self, words, *data):
        """The right certificate of c, and then `data`, bytes or expressions."""
        await self.ready()
        raw = await self.node()
        for each in data:
            raw.transport.write(each) if isinstance(each, bytes) else raw.say(each)
        await self.until(lambda: raw.over, "the end of the connection")
        await self.until(lambda: any(words in text for text in self.reasons()), words)
        await self.unharmed()

    async def test_after_tls(self):
        await self.broken("broker: expected", b"\xff" * 1000)

    async def test_a_long_prefix(self):
        await self.broken("broker: expected", b"\x01" * 1000)

    async def test_a_long_list(self):
        await self.broken("broker: expected", banana.encode(b"pb") + b"\x7f\x7f\x7f\x7f\x80")

    async def test_a_long_string(self):
        await self.broken("broker: expected", banana.encode(b"pb") + b"\x7f\x7f\x7f\x7f\x82")

    async def test_a_string_longer_than_a_message(self):
        string = banana.encode(b"x" * 600_000)
        await self.broken("got more than one can have", banana.encode(b"pb") + string)

    async def test_many_strings(self):
        nested = banana.encode([b"x" * 30_000] * 20)
        await self.broken("got more than one can have", banana.encode(b"pb") + nested)

    async def test_deep_lists(self):
        await self.broken(
            "got more than one can have", banana.encode(b"pb") + b"\x01\x80" * 100_000
        )

    async def test_another_dialect(self):
        await self.ready()
        raw = await self.node()
        raw.transport.write(banana.encode(b"none"))
        await self.until(lambda: raw.over)
        await self.unharmed()

    async def test_no_dialect(self):
        await self.broken("broker: expected", banana.encode([[7]]), [7])

    async def test_things_that_nodes_do_not_say(self):
        hello = pack(self.hello(2))
        for expression in (
            [b"decref", b"root"],
            [b"didNotUnderstand", b"x"],
            [b"cachemessage", 1, 1, b"x", 1, [b"tuple"], [b"dictionary"]],
            [b"answer", 7, [b"None"]],
            [b"error", 1, [b"None"]],
            call(b"hello", hello, name=b"other"),
            call(b"hello", hello, hello),
            call(b"hello", [b"unicode", hello]),
            call(b"hello", [b"instance", b"os.system", b"x"]),
            call(b"__class__"),
            call(b"take", b"grant", b"{}"),
            [],
            [[b"message"]],
            [b"\xff\xfe"],
            7,
        ):
            await self.broken("broker: expected", expression)
            for channel in self.started:
                await channel.stopService()
            self.started.clear()
            self.raws.clear()

    async def test_a_message_before_hello(self):
        grant = call(b"take", b"grant", b'{"term":1}', b"")
        await self.broken("message: expected hello first, got a message", grant)

    async def test_a_hello_that_is_none(self):
        await self.broken("hello: expected a JSON object", call(b"hello", b"hello"))

    async def test_another_nodes_name_in_hello(self):
        await self.ready()
        raw = await self.node()
        raw.say(call(b"hello", pack(self.hello(1, "ee" * 8))))
        await self.until(lambda: raw.over)
        self.assertIn(b'{"refused":"node: expected c, got \\"b\\""}', raw.data)
        await self.unharmed()

    async def test_hello_twice(self):
        await self.ready()
        raw = await self.node()
        hello = call(b"hello", pack(self.hello(2)))
        raw.say(hello)
        await self.until(lambda: 2 in self.a.told.connected)
        raw.transport.write(banana.encode(hello))
        await self.until(lambda: raw.over)
        self.assertEqual([number for number, _ in self.a.told.of("down")], [2])
        self.a.told.list = [event for event in self.a.told.list if event[:2] != ("down", 2)]
        await self.unharmed()

    async def test_messages_that_unpack_refuses(self):
        for kind, head, data in (
            (b"nothing", b"{}", b""),
            (b"grant", b"{}", b""),
            (b"grant", b'{"term":-1}', b""),
            (b"\xff", b"", b""),
            (b"pull", b"[" * 8000, b""),
        ):
            await self.ready()
            raw = await self.node()
            raw.say(call(b"hello", pack(self.hello(2))))
            await self.until(lambda: 2 in self.a.told.connected)
            raw.transport.write(banana.encode(call(b"take", kind, head, data, number=2)))
            await self.until(lambda raw=raw: raw.over)
            self.assertEqual([number for number, _ in self.a.told.of("down")], [2])
            self.a.told.list = [event for event in self.a.told.list if event[:2] != ("down", 2)]
            await self.unharmed()
            for channel in self.started:
                await channel.stopService()
            self.started.clear()
            self.raws.clear()


class SlowTests(HostileCase):
    def setUp(self):
        super().setUp()
        self.patch(connection, "START", 0.5)

    async def test_who_says_nothing(self):
        await self.ready()
        plain = await self.dial()
        shaken = await self.node()
        await self.until(lambda: plain.over and shaken.over)
        self.assertIn("127.0.0.1: TLS: expected it within 0.5 s, got none", self.reasons())
        self.assertIn("hello: expected it within 0.5 s, got none", self.reasons())
        await self.unharmed()

    async def test_hundreds(self):
        self.patch(connection, "START", 30)
        await self.ready()
        raws = [await self.dial() for _ in range(300)]
        await self.until(lambda: sum(not raw.over for raw in raws) == EACH_LIMIT)
        self.assertEqual(self.a._listener._places, {"127.0.0.1": EACH_LIMIT})
        await self.unharmed()

    async def test_many_that_come_and_go(self):
        await self.ready()
        for _ in range(100):
            raw = await self.dial()
            raw.transport.abortConnection()
        self.assertEqual(self.reasons(), [])
        await self.unharmed()

    async def test_a_node_that_floods_with_connections(self):
        await self.ready()
        raws = []
        for index in range(30):
            raw = await self.node()
            raw.say(call(b"hello", pack(self.hello(2, f"{index:02x}" * 8))))
            raws.append(raw)
        await self.until(lambda: sum(not raw.over for raw in raws) <= 1)
        self.a.told.list = [event for event in self.a.told.list if event[:2] != ("down", 2)]
        await self.unharmed()


class DialedTests(HostileCase):
    """The side that dials meets somebody else there."""

    async def test_another_node_at_the_address(self):
        b = self.channel(1, peers=(0, 1))
        wrong = self.channel(2, port=self.ports[0], peers=(0, 2))
        said = []
        self.patch(b._notes, "say", lambda *words: said.append(words))
        self.start(wrong, b)
        await self.until(lambda: said)
        self.assertEqual(
            said[0],
            (
                "refused",
                "a",
                'certificate: expected the name of another node of the array, got "c"',
            ),
        )
        self.assertEqual(b.told.of("up"), [])

    async def test_a_server_that_accepts_and_is_silent(self):
        class Silent(Protocol):
            pass

        port = reactor.listenTCP(self.ports[0], Factory.forProtocol(Silent), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.patch(connection, "START", 0.2)
        b = self.channel(1, peers=(0, 1))
        said = []
        self.patch(b._notes, "say", lambda *words: said.append(words))
        self.start(b)
        await self.until(lambda: said)
        self.assertEqual(said[0], ("refused", "a", "TLS: expected it within 0.2 s, got none"))
        await deferLater(reactor, 0)
