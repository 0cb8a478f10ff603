"""Tests of what the demo makes: folder, certificate, backends, configuration, banner."""

import datetime as dt
import ipaddress
import ssl
import stat
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from dlba import demo
from dlba.addresses import Endpoint
from dlba.config.load import load_text


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


class CertificateTests(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.pem, self.key = self.folder / "demo.pem", self.folder / "demo.key"
        demo.write_certificate(self.pem, self.key)

    def test_names_key_and_days(self):
        certificate = x509.load_pem_x509_certificate(self.pem.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(names.get_values_for_type(x509.DNSName), ["localhost"])
        self.assertEqual(
            names.get_values_for_type(x509.IPAddress),
            [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")],
        )
        self.assertIsInstance(certificate.public_key().curve, ec.SECP256R1)
        now = dt.datetime.now(dt.UTC)
        self.assertLess(certificate.not_valid_before_utc, now)
        left = certificate.not_valid_after_utc - now
        self.assertTrue(dt.timedelta(days=29) < left <= dt.timedelta(days=30), left)

    def test_other_names(self):
        demo.write_certificate(self.pem, self.key, ("203.0.113.10", "shop.example"))
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(self.pem, self.key)
        for name in ("203.0.113.10", "shop.example"):
            self.assertTrue(self.shake(server, name), name)
        self.assertRaises(ssl.SSLCertVerificationError, self.shake, server, "localhost")

    def test_client_that_trusts_it_accepts_it(self):
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(self.pem, self.key)
        for name in ("localhost", "127.0.0.1", "::1"):
            self.assertTrue(self.shake(server, name), name)
        self.assertRaises(ssl.SSLCertVerificationError, self.shake, server, "example.com")

    def shake(self, server_context, name):
        client_context = ssl.create_default_context(cafile=self.pem)
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = client_context.wrap_bio(back, there, server_hostname=name)
        server = server_context.wrap_bio(there, back, server_side=True)
        for side in (client, server, client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        return client.version()

    def test_key_is_private_and_replaced(self):
        self.assertEqual(mode(self.key), 0o600)
        before = self.key.read_bytes()
        self.key.chmod(0o644)
        demo.write_certificate(self.pem, self.key)
        self.assertEqual(mode(self.key), 0o600)
        self.assertNotEqual(self.key.read_bytes(), before)


class ConfigTests(SynchronousTestCase):
    def test_is_what_a_file_would_give(self):
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        demo.write_certificate(folder / "demo.pem", folder / "demo.key")
        addresses = {"app1": Endpoint("127.0.0.1", 20001), "app2": Endpoint("127.0.0.1", 20002)}
        backends = '{app1: {address: "127.0.0.1:20001"}, app2: {address: "127.0.0.1:20002"}}'
        text = f"""
node: demo
state: state
monitor: {{listen: "127.0.0.1:9080"}}
array:
  web:
    listen:
      - {{port: 8080, address: 127.0.0.1}}
      - port: 8443
        address: 127.0.0.1
        tls: {{certificates: [{{certificate: demo.pem, key: demo.key}}]}}
    sites:
      - {{hosts: ["*"], paths: ["/static/"], pool: caches, schedule: url}}
      - {{hosts: ["*"], default: true, pool: app, schedule: cookie}}
    pools:
      app: {{backends: {backends}}}
      caches: {{backends: {backends}}}
"""
        self.assertEqual(demo.node_config(folder, addresses), load_text(text, folder))


class FailingReactor(MemoryReactorClock):
    """Refuses the third port, and keeps those that it gave."""

    def __init__(self):
        super().__init__()
        self.stopped = 0

    def listenTCP(self, *args, **kwargs):  # noqa: N802 - Twisted's name
        if len(self.tcpServers) == 2:
            raise OSError("no more")
        port = super().listenTCP(*args, **kwargs)

        def stop():
            self.stopped += 1

        port.stopListening = stop
        return port


class FailureTests(SynchronousTestCase):
    def test_nothing_is_left_behind(self):
        folder = Path(self.mktemp())
        folder.mkdir(mode=0o700)
        self.patch(demo.tempfile, "mkdtemp", lambda prefix: str(folder))
        failing = FailingReactor()
        self.assertRaises(OSError, demo.Demo(failing).start)
        self.assertEqual((failing.stopped, folder.exists()), (2, False))

    def test_stop_without_start(self):
        self.assertIsNone(self.successResultOf(demo.Demo(MemoryReactorClock()).stop()))


class DemoTests(TestCase):
    """Real sockets on loopback, on ports that the kernel chooses."""

    timeout = 60

    def start(self, folder=None):
        made = demo.Demo(reactor, folder)
        self.addCleanup(made.stop)
        return made, made.start()

    def connect(self, address):
        endpoint = TCP4ClientEndpoint(reactor, address.host, address.port)
        return endpoint.connect(Factory.forProtocol(Protocol))

    async def test_temporary_folder(self):
        made, config = self.start()
        folder = made.folder
        self.assertEqual(config.state, folder / "state")
        self.assertEqual((mode(folder), mode(config.state)), (0o700, 0o700))
        names = sorted(path.name for path in folder.iterdir())
        self.assertEqual(names, ["demo.key", "demo.pem", "state"])
        await made.stop()
        self.assertFalse(folder.exists())

    async def test_given_folder_is_kept(self):
        folder = Path(self.mktemp()).absolute()
        made, _ = self.start(folder)
        self.assertEqual((made.folder, mode(folder)), (folder, 0o700))
        await made.stop()
        self.assertTrue((folder / "demo.pem").exists())
        again, _ = self.start(folder)
        await again.stop()

    async def test_backends_answer_until_stop(self):
        made, config = self.start()
        backends = config.array.web.pools["app"].backends
        self.assertEqual([b.name for b in backends], ["app1", "app2", "app3"])
        self.assertEqual(config.array.web.pools["caches"].backends, backends)
        self.assertEqual(len({b.address for b in backends}), 3)
        for backend in backends:
            connection = await self.connect(backend.address)
            connection.transport.abortConnection()
        await made.stop()
        for backend in backends:
            await self.assertFailure(self.connect(backend.address), ConnectError)

    async def test_banner(self):
        made, config = self.start()
        banner = made.banner()
        for text in ("http://127.0.0.1:8080/", "https://127.0.0.1:8443/", "127.0.0.1:9080"):
            self.assertIn(text, banner)
        for backend in config.array.web.pools["app"].backends:
            self.assertIn(f"{backend.name} at {backend.address}", banner)
        self.assertIn(f"\n  control   {config.state}/control\n", banner)
        self.assertIn("\n  curl -ik https://127.0.0.1:8443/ ", banner)
        self.assertTrue(all(len(line) <= 110 for line in banner.splitlines()))
        self.assertTrue(banner.endswith("\n"))
