"""Tests of dlba.config.election: the keys as they are read."""

from twisted.trial.unittest import SynchronousTestCase

from dlba.addresses import Endpoint
from dlba.config import election as e
from dlba.config.shapes import Reading, read_mapping
from dlba.config.values import NodeConfig
from tests.config.samples import BASE, node_of

TEXT = """\
node: a
channel: {listen: "[2001:DB8::1]:7788", certificate: a.pem, key: a.key, authority: /ca.pem}
array:
  name: shop
  status: {every: 2s, retries: 0, timeout: 500ms}
  election:
    heartbeat: 50ms
    down_after: 1
    ping: {every: 1, retries: 1}
    sync_every: 10ms
    quorum: majority
    track: {gateway: 192.0.2.1}
  nodes:
    a: {number: 0, address: 192.0.2.11, mac: "02:00:00:00:00:0a", channel: "h.test:99"}
"""


class ReadTests(SynchronousTestCase):
    def read(self, text):
        reading = Reading(resolve={"h.test": "192.0.2.77"}.__getitem__)
        config = read_mapping(NodeConfig, node_of(text), reading)
        return config, [str(problem) for problem in reading.problems]

    def test_everything(self):
        config, problems = self.read(TEXT)
        self.assertEqual(problems, [])
        self.assertEqual(
            config.channel,
            e.ChannelConfig(
                listen=Endpoint("2001:db8::1", 7788),
                certificate=BASE / "a.pem",
                key=BASE / "a.key",
                authority=BASE.parent / "ca.pem",
            ),
        )
        self.assertEqual(
            config.array.election,
            e.ElectionConfig(
                heartbeat=0.05,
                down_after=1.0,
                ping=e.PingConfig(every=1.0, retries=1),
                sync_every=0.01,
                quorum="majority",
                track=e.TrackConfig(gateway="192.0.2.1"),
            ),
        )
        self.assertEqual(config.array.status, e.StatusConfig(every=2.0, retries=0, timeout=0.5))
        self.assertEqual(config.array.nodes["a"].channel, Endpoint("192.0.2.77", 99))

    def test_defaults(self):
        config, problems = self.read("node: a\narray: {}\n")
        self.assertEqual((config.channel, problems), (None, []))
        election = config.array.election
        self.assertEqual((election.heartbeat, election.down_after), (0.1, 0.3))
        self.assertEqual((election.sync_every, election.quorum), (0.05, "reachable"))
        self.assertEqual(election.track, e.TrackConfig(gateway=None))
        self.assertEqual(config.array.status, e.StatusConfig(every=1.0, retries=2, timeout=1.0))

    def test_a_channel_is_whole(self):
        for key in ("listen", "certificate", "key", "authority"):
            line = TEXT.splitlines()[1]
            parts = line.removeprefix("channel: {").removesuffix("}").split(", ")
            kept = ", ".join(part for part in parts if not part.startswith(key + ":"))
            _, problems = self.read(TEXT.replace(line, f"channel: {{{kept}}}"))
            self.assertEqual(
                problems, [f'node.yaml:2:10: channel: expected a key "{key}", got none']
            )

    def test_wrong_values(self):
        for right, wrong, message in (
            ("majority", "most", "expected one of reachable, majority"),
            ("50ms", "1ms", "expected a time such as"),
            ("gateway: 192.0.2.1", "gateway: 127.0.0.1", "expected an IPv4 address of a machine"),
            ("h.test:99", "h.test", "expected host:port"),
            ("[2001:DB8::1]:7788", "h.test:7788", "expected IP:port"),
        ):
            _, problems = self.read(TEXT.replace(right, wrong))
            self.assertEqual(len(problems), 1, problems)
            self.assertIn(message, problems[0])
