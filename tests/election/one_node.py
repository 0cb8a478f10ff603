"""Node b in a process of its own, for tests.election.test_channel: folder and ports as arguments.

It says something to node a ten times a second, as nodes do.
"""

import sys
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.task import LoopingCall

from dlba.addresses import Endpoint
from dlba.election.channel import Channel
from dlba.election.credentials import load
from dlba.election.hello import Hello
from dlba.election.messages import Pull
from dlba.election.peers import PeerAddress
from tests.election.certificates import files


class Deaf:
    """Events that nobody minds."""

    up = down = refused = message = staticmethod(lambda *_: None)


def main(folder: Path, ports: list[int]) -> None:
    hello = Hello(
        protocol=(1, 1),
        array="shop",
        node="b",
        number=1,
        incarnation="bb" * 8,
        mac="02:00:00:00:00:01",
        buckets=64,
        hash="",
        config_version=0,
    )
    a = PeerAddress(number=0, name="a", mac="02:00:00:00:00:00", host="127.0.0.1", port=ports[0])
    listen = Endpoint("127.0.0.1", ports[1])
    channel = Channel(reactor, hello, load(files(folder, "b")), listen, [a], Deaf(), 0.5)
    channel.startService()
    LoopingCall(channel.send, 0, Pull(first=0)).start(0.1)
    reactor.callLater(60, reactor.stop)  # whatever becomes of the test
    reactor.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(port) for port in sys.argv[2:]])
