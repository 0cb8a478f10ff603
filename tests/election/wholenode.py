"""Whole nodes of one array in one process: configurations for them, and a packet path that records.

Their channels are real, over loopback, and so are certificates, disk and echoes; 127.0.0.1 to
127.0.0.3 are their machines. What they do on the segment is only written down.
"""

import json
from pathlib import Path

import attrs
from twisted.application.service import Service

from dlba.config.load import load_text
from dlba.config.values import NodeConfig
from dlba.routing.array import frame_path
from dlba.routing.keyedhash import KeyedHash
from dlba.routing.standing import Standing

NAMES = ("a", "b", "c")
VIP = "10.99.0.100"


def config(folder: Path, name: str, ports: list[int], **array) -> NodeConfig:
    """Node `name`, whose certificate is in `folder`; `ports`: of all nodes' channels."""
    number = NAMES.index(name)
    nodes = {
        each: {
            "number": n,
            "address": f"10.99.0.1{n}",
            "mac": f"02:00:00:00:00:0{n}",
            "channel": f"127.0.0.1:{ports[n]}",
        }
        for n, each in enumerate(NAMES[: len(ports)])
    }
    election = {"heartbeat": 0.05, "down_after": 0.3, **array.pop("election", {})}
    text = json.dumps(
        {
            "node": name,
            "interface": "eth9",
            "state": f"state-{name}",
            "channel": {
                "listen": f"127.0.0.1:{ports[number]}",
                "certificate": f"{name}.pem",
                "key": f"{name}.key",
                "authority": "ca.pem",
            },
            "array": {
                "name": "shop",
                "vip": VIP,
                "nodes": nodes,
                "election": election,
                "status": {"every": 0.2},
                **array,
            },
        }
    )
    made = load_text(text, folder)
    # The one place where nodes of an array are on loopback; the configuration refuses that.
    local = {
        each: attrs.evolve(node, address=f"127.0.0.{1 + node.number}")
        for each, node in made.array.nodes.items()
    }
    return attrs.evolve(made, array=attrs.evolve(made.array, nodes=local))


class RecordingRouting(Service):
    """As `ElectedRouting`, without a segment. `calls`: what it was told, but for each turn's."""

    def __init__(self, reactor, poller, config, hash_key, own_status):
        self.path = frame_path(config.array, config.node, 1500, hash_key, True)
        self.standing = Standing(self.path.scheduler, in_force=False)
        self.events = None
        self.able = True
        self.fault = ""
        #: What `schedule` raises.
        self.refuses = None
        self.calls = []
        self._number = config.array.nodes[config.node].number

    @property
    def role(self):
        return "fault" if self.fault else "scheduler" if self.path.active else "backup"

    def take(self):
        calls, self.calls = self.calls, []
        return calls

    def schedule(self, now):
        if self.refuses is not None:
            raise self.refuses
        self.calls.append("schedule")
        self.path.activate(True, now, 0)
        return self.standing.enforce()

    def step_down(self):
        if self.path.active:
            self.calls.append("step_down")
            self.path.activate(False, 0.0)
            self.standing.relax()

    def quiet(self):
        self.calls.append("quiet")

    def late(self):
        self.calls.append("late")

    def mute(self, on):
        self.calls.append(("mute", on))

    def alive(self, now):
        pass

    def probe_vip(self):
        pass

    def lack(self, number, what, lacking):
        if lacking:
            self.calls.append(("lack", number, what))
        return self.standing.lack(number, what, lacking)

    def hold(self, number, on):
        self.path.scheduler.hold(number, on)

    def drain_node(self, number, on):
        (self.path.scheduler.drain if on else self.path.scheduler.resume)(number)

    def status_of(self, number, hits, open_connections, average_response):
        self.path.scheduler.row(number).status(hits, open_connections, average_response)

    def rehash(self, key):
        scheduler = self.path.scheduler
        scheduler.rehash(KeyedHash(scheduler.table.buckets, key))

    def fail(self, why):
        """The link is gone, or (`why` empty) back."""
        self.fault = why
        self.events.fault(why)

    # What a whole node asks beside that.

    def drain(self):
        self.path.scheduler.drain(self._number)

    def undo(self):
        self.calls.append("undo")

    def where(self, address, port):
        return {"bucket": self.path.scheduler.bucket_of(address, port)}

    def server_changed(self, alive):
        self.able = alive

    def counters(self):
        return self.path.counters()
