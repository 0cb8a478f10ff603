"""The segment: ICMP echoes, who answers ARP for the VIP, and the clients' frames.

A node's kernel answers echoes though its process hangs; ARP for the VIP is answered by the process
that is scheduler, as long as it runs. A client sends to whom it last heard of.
"""

from typing import Any

from dlba.election.commands import GATEWAY
from tests.sim.network import SEGMENT, Network

#: Seconds after becoming scheduler at which the VIP is announced, then every ten.
ANNOUNCED = (0.0, 1.0)
ANNOUNCE_EVERY = 10.0
#: Seconds after which a client that isn't answered asks again who has the VIP.
ASKS = 1.0


class Client:
    """One flow. `bucket`: its; `home`: the node beside which it is; `ends`: when it is over."""

    def __init__(self, bucket: int, home: int, ends: float, every: float) -> None:
        self.bucket = bucket
        self.home = home
        self.ends = ends
        self.every = every


class Segment:
    """`processes`: number → the process that runs there, or None."""

    def __init__(self, world: Any, network: Network, processes: dict[int, Any]) -> None:
        self._world = world
        self._network = network
        self._clock = network.clock
        self._random = network.random
        self._processes = processes
        #: Beside each node: who has the VIP as the clients there last heard, and when they heard.
        self.holders: dict[int, tuple[int, float]] = {}
        self._open_till = self._clock.now

    def echo(self, process: Any, number: int) -> None:
        a = process.number
        if number == GATEWAY:
            if self._network.fit(a) and self._world.gateway and not self._network.lost():
                self._clock.after(self._network.delay(), process.input, "echoed", GATEWAY)
            return
        self._network.datagram(
            a, number, self._network.datagram, number, a, process.input, "echoed", number
        )

    def probe(self, process: Any) -> None:
        """Who has the VIP?"""
        for peer in self._processes.values():
            if peer is not None and peer is not process:
                self._network.datagram(process.number, peer.number, self._asked, peer, process)

    def _asked(self, peer: Any, process: Any) -> None:
        if peer.answers:
            mac = self._world.mac(peer.number)
            self._network.datagram(peer.number, process.number, process.input, "vip_claimed", mac)

    def announce(self, process: Any, term: int, times: int = 0) -> None:
        """All hear who has the VIP."""
        if not process.answers or process.member.term != term:
            return
        for number in self._network.numbers:
            self._network.datagram(process.number, number, self._heard, number, process)
        delay = ANNOUNCED[1] if times == 0 else ANNOUNCE_EVERY
        self._clock.after(delay, self.announce, process, term, times + 1)

    def _heard(self, number: int, process: Any) -> None:
        self.holders[number] = process.number, self._clock.now
        peer = self._processes[number]
        if peer is not None and peer is not process:
            peer.input("vip_claimed", self._world.mac(process.number))

    # ---------------------------------------------------------------- clients

    def clients(self, until: float) -> None:
        """Flows come and go till then."""
        if self._clock.now >= self._open_till:
            self._open_till = until
            self._open()
        else:
            self._open_till = until

    def _open(self) -> None:
        if self._clock.now >= self._open_till:
            return
        random = self._random
        client = Client(
            random.randrange(self._world.buckets),
            random.choice(self._network.numbers),
            min(self._open_till, self._clock.now + 0.2 + 3 * random.random()),
            0.1 + 0.4 * random.random(),
        )
        self._packet(client)
        self._clock.after(0.02 + 0.2 * random.random(), self._open)

    def _packet(self, client: Client) -> None:
        now = self._clock.now
        if now >= client.ends:
            return
        number, heard = self.holders.get(client.home, (-1, 0.0))
        process = self._processes.get(number)
        if process is not None and self._reaches(client.home, number):
            process.input("frame", client.bucket)
        if (process is None or not process.scheduling) and now > heard + ASKS:
            self._ask(client.home)
        self._clock.after(client.every * (0.5 + self._random.random()), self._packet, client)

    def _ask(self, home: int) -> None:
        """A client's ARP entry is old: who answers?"""
        for process in self._processes.values():
            if process is not None and process.answers and self._reaches(home, process.number):
                self.holders[home] = process.number, self._clock.now

    def _reaches(self, home: int, number: int) -> bool:
        """Whether a client beside the one node reaches the other, and is answered."""
        return home == number or self._network.both_open(home, number, SEGMENT)
