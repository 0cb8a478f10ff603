"""Tests of dlba.election.peers."""

from twisted.trial.unittest import SynchronousTestCase

from dlba.config.shapes import Reading, read_mapping
from dlba.config.values import NodeConfig
from dlba.election.peers import peers_of
from tests.config.samples import node_of


class PeersTests(SynchronousTestCase):
    def test_addresses_of_the_configuration(self):
        root = node_of("""\
node: a
channel: {listen: "192.0.2.11:7788", certificate: a.pem, key: a.key, authority: ca.pem}
array:
  nodes:
    a: {number: 0, address: 192.0.2.11, mac: "02:00:00:00:00:0a"}
    b: {number: 1, address: 192.0.2.12, mac: "02:00:00:00:00:0B"}
    c: {number: 2, address: 192.0.2.13, mac: "02:00:00:00:00:0c", channel: "198.51.100.3:99"}
""")
        config = read_mapping(NodeConfig, root, Reading())
        self.assertEqual(
            [(p.number, p.name, p.mac, p.host, p.port) for p in peers_of(config)],
            [
                (1, "b", "02:00:00:00:00:0b", "192.0.2.12", 7788),
                (2, "c", "02:00:00:00:00:0c", "198.51.100.3", 99),
            ],
        )
