"""Decides what a lab is made of: who takes part, names, addresses, MACs, links, configurations.

Pure: a lab's name and a number of nodes give the whole plan, the same one every time. There are two
segments, both bridges in the switch's network namespace:

======  ===============  ====================================================================
bridge  network          who
======  ===============  ====================================================================
front   203.0.113.0/24   the VIP .10, nodes a .11, b .12, …, the client .200; eth0 of each
back    10.0.1.0/24      backends app1 .1, app2 .2, … as their eth0, nodes .101, … as their eth1
======  ===============  ====================================================================

The other end of eth0 of node a is the switch's port `front-a`. A MAC address is 02:00 and the four
octets of the IP address, so that a capture reads by itself. Who is X of lab NAME lives in the
network namespace dlba-NAME-X; X has no hyphen, so that names of labs may have some.

The configuration's modules are imported where text is read or written: `dlba status` needs none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

if TYPE_CHECKING:
    from dlba.config.nodes import Node

VIP: Final = "203.0.113.10"
NODES_LIMIT: Final = 26  # one letter each
PREFIX: Final = 24  # bits, of both networks
BRIDGES: Final = ("front", "back")
SWITCH: Final = "switch"
CLIENT: Final = "client"
BACKEND_PORT: Final = 8080
MONITOR: Final = ("127.0.0.1", 9080)  # of each node, in its own namespace
CERTIFICATE: Final = ("lab.pem", "lab.key")  # beside array.yaml
AUTHORITY: Final = "ca"  # beside array.yaml: the folder of the channel's certificates
CHANNEL_PORT: Final = 7788

LAB_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,31}", re.ASCII)
NODE_NAME: Final = re.compile(r"[a-z]", re.ASCII)
PROGRAM_NAME: Final = re.compile(r"[a-z]|app[1-9][0-9]?", re.ASCII)
PART_NAME: Final = re.compile(r"[a-z]|app[1-9][0-9]?|client|switch", re.ASCII)

#: Settings of every namespace, under /proc/sys/net, whatever the machine has: no IPv6, whose own
#: packets would only disturb captures; nobody forwards; reverse paths are filtered strictly, as on
#: a hardened machine, so that a node has to do its part. The switch passes frames as they are: with
#: br_netfilter, which Docker loads, it would drop those of broken packets and reassemble fragments.
SYSCTLS: Final = (
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv4/ip_forward", "0"),
    ("ipv4/conf/all/arp_ignore", "0"),
    ("ipv4/conf/default/arp_ignore", "0"),
    ("ipv4/conf/all/arp_announce", "0"),
    ("ipv4/conf/default/arp_announce", "0"),
    ("ipv4/conf/all/rp_filter", "1"),
    ("ipv4/conf/default/rp_filter", "1"),
    ("bridge/bridge-nf-call-arptables", "0"),
    ("bridge/bridge-nf-call-ip6tables", "0"),
    ("bridge/bridge-nf-call-iptables", "0"),
)

_ARRAY_NAME = re.compile(r"[A-Za-z0-9._-]{1,63}", re.ASCII)
_INTEGER = re.compile(r"0|[1-9][0-9]{0,14}", re.ASCII)


@attrs.frozen
class Link:
    """One veth pair: `interface` at its owner, `port` on `bridge` at the switch."""

    interface: str
    bridge: str
    port: str
    address: str
    mac: str


@attrs.frozen
class Part:
    """Who takes part besides the switch. `kind`: node, backend or client."""

    name: str
    kind: str
    links: tuple[Link, ...]

    @property
    def address(self) -> str:
        """Its address on the segment where others look for it."""
        return self.links[0].address


@attrs.frozen
class Plan:
    """A whole lab."""

    name: str
    nodes: tuple[Part, ...]
    backends: tuple[Part, ...]
    client: Part

    @property
    def parts(self) -> tuple[Part, ...]:
        """Everybody but the switch."""
        return (*self.nodes, *self.backends, self.client)

    @property
    def programs(self) -> tuple[Part, ...]:
        """Those that run a program of ours."""
        return (*self.backends, *self.nodes)

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The network namespaces by name, the switch's first."""
        names = (SWITCH, *(part.name for part in self.parts))
        return tuple(namespace(self.name, name) for name in names)

    def part(self, name: str) -> Part | None:
        """The part of that name, None if there is none (the switch is none)."""
        return next((part for part in self.parts if part.name == name), None)


@attrs.frozen
class NodeState:
    """What is seen of one node from outside. `role`, `term`: None where it doesn't answer."""

    name: str
    address: str
    mac: str
    running: bool
    link: bool
    role: str | None
    pid: int | None = None
    term: int | None = None
    stopped: bool = False


def plan(name: str, nodes: int) -> Plan:
    """The lab `name` with that many nodes (1 to NODES_LIMIT), and a backend for each."""
    if not 1 <= nodes <= NODES_LIMIT or not LAB_NAME.fullmatch(name):
        raise ValueError(f"lab: expected a name and 1 to {NODES_LIMIT} nodes, got {name} {nodes}")

    def node(index: int) -> Part:
        letter = chr(ord("a") + index)
        front = _link("eth0", "front", letter, f"203.0.113.{11 + index}")
        return Part(letter, "node", (front, _link("eth1", "back", letter, f"10.0.1.{101 + index}")))

    def backend(index: int) -> Part:
        label = f"app{1 + index}"
        return Part(label, "backend", (_link("eth0", "back", label, f"10.0.1.{1 + index}"),))

    return Plan(
        name,
        tuple(map(node, range(nodes))),
        tuple(map(backend, range(nodes))),
        Part(CLIENT, "client", (_link("eth0", "front", CLIENT, "203.0.113.200"),)),
    )


def _link(interface: str, bridge: str, owner: str, address: str) -> Link:
    mac = (b"\x02\x00" + IPv4Address(address).packed).hex(":")
    return Link(interface, bridge, f"{bridge}-{owner}", address, mac)


def namespace(lab: str, part: str) -> str:
    """The name of the network namespace of a part of a lab."""
    return f"dlba-{lab}-{part}"


def is_namespace_of(lab: str, text: str) -> bool:
    """Whether `text` names a network namespace that the lab `lab` may have made."""
    start, _, part = text.rpartition("-")
    return start == f"dlba-{lab}" and PART_NAME.fullmatch(part) is not None


# The configuration


def array_values(lab: Plan) -> dict[str, Any]:
    """What goes into array.yaml before anything is set otherwise; a fresh mapping each time."""

    def pool() -> dict[str, Any]:
        addresses = {part.name: f"{part.address}:{BACKEND_PORT}" for part in lab.backends}
        return {"backends": {name: {"address": address} for name, address in addresses.items()}}

    certificate, key = CERTIFICATE
    tls = {"certificates": [{"certificate": certificate, "key": key}]}
    return {
        "name": lab.name,
        "vip": VIP,
        "nodes": {
            part.name: {"number": number, "address": part.address, "mac": part.links[0].mac}
            for number, part in enumerate(lab.nodes)
        },
        "web": {
            "listen": [{"port": 80}, {"port": 443, "tls": tls}],
            "sites": [
                {"hosts": ["*"], "paths": ["/static/"], "pool": "caches", "schedule": "url"},
                {"hosts": ["*"], "default": True, "pool": "app", "schedule": "cookie"},
            ],
            "pools": {"app": pool(), "caches": pool()},
        },
    }


def change(values: dict[str, Any], setting: str) -> None:
    """Carry out one KEY=VALUE in the values of array.yaml.

    KEY is a dotted path, its parts keys of mappings or indexes of lists from 0; mappings that lack
    are made. VALUE is YAML, kept as it is written; null takes the key away. Raises ValueError with
    what is wrong, which is the user's.
    """
    from dlba.config.problems import quoted

    key, equals, text = setting.partition("=")
    path = key.split(".")
    if not equals or not all(path):
        raise ValueError(f"expected KEY=VALUE, got {quoted(setting)}")
    value = _yaml_value(text, key)
    place: Any = values
    for depth, step in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(place, dict):
            if last and value is None:
                place.pop(step, None)
            elif last:
                place[step] = value
            else:
                place = place.setdefault(step, {})
        elif isinstance(place, list) and _INTEGER.fullmatch(step) and int(step) < len(place):
            if last and value is None:
                del place[int(step)]
            elif last:
                place[int(step)] = value
            else:
                place = place[int(step)]
        else:
            above = ".".join(path[:depth])
            raise ValueError(f"{key}: expected something that has {quoted(step)}, got {above}")


def _yaml_value(text: str, key: str) -> Any:
    from dlba.config.document import parse
    from dlba.config.nodes import Source
    from dlba.config.problems import Problem

    problems: list[Problem] = []
    if not text.strip():
        raise ValueError(f"{key}: expected a value, got nothing")
    # Source wants a folder for relative paths; none is looked up here.
    node = parse(text.encode("utf-8", "surrogateescape"), Source("--set", Path("/")), problems)
    if problems:
        raise ValueError(f"{key}: {problems[0].message}")
    return None if node is None else _plain(node)


def _plain(node: Node) -> Any:
    """The node as values that YAML writes so that the configuration reads the same text again."""
    from dlba.config.nodes import Mapping as MappingNode
    from dlba.config.nodes import Scalar

    if isinstance(node, MappingNode):
        return {key: _plain(entry.value) for key, entry in node.entries.items()}
    if isinstance(node, Scalar):
        if not node.plain:
            return node.text
        if node.text in ("null", "~"):
            return None
        if node.text in ("true", "false"):
            return node.text == "true"
        return int(node.text) if _INTEGER.fullmatch(node.text) else node.text
    return [_plain(item) for item in node.items]


def array_text(values: Mapping[str, Any]) -> str:
    """array.yaml with these values."""
    import yaml

    head = "# Made by dlba lab up, the same for every node.\n"
    return head + yaml.safe_dump(
        dict(values), sort_keys=False, default_flow_style=None, width=100, allow_unicode=True
    )


def has_channel(values: Mapping[str, Any]) -> bool:
    """Whether the nodes speak to each other, by the values of array.yaml.

    They can't without a name for their certificates, and have nobody to speak to without nodes;
    then the configuration names the scheduler.
    """
    name = values.get("name")
    named = isinstance(name, str) and _ARRAY_NAME.fullmatch(name) is not None
    return named and bool(values.get("nodes"))


def node_text(node: Part, channel: bool) -> str:
    """node.yaml of one node; array.yaml and certificates lie in the folder above.

    So do the secrets where nodes can't tell each other theirs.
    """
    host, port = MONITOR
    text = f"""\
# Made by dlba lab up.
node: {node.name}
array: ../array.yaml
interface: {node.links[0].interface}
state: state
monitor: {{listen: "{host}:{port}"}}
log: {{access: access.log, format: combined}}
"""
    if channel:
        text += f"""\
channel:
  listen: {node.address}:{CHANNEL_PORT}
  certificate: ../{AUTHORITY}/{node.name}.pem
  key: ../{AUTHORITY}/{node.name}.key
  authority: ../{AUTHORITY}/ca.pem
"""
    else:
        text += "secrets: ../secrets\n"
    return text


def ready_paths(values: Mapping[str, Any], lab: Plan) -> dict[str, str]:
    """For each node the page of its monitor that answers 200 as soon as it is up.

    /readyz where it may get traffic then; /healthz where it won't: without a proxy that depends on
    what is started on the node later, and a node may be configured to take nothing.
    """
    nodes = values.get("nodes")

    def path(name: str) -> str:
        own = nodes.get(name) if isinstance(nodes, Mapping) else None
        idle = isinstance(own, Mapping) and (own.get("enabled") is False or own.get("weight") == 0)
        return "/healthz" if values.get("web") is None or idle else "/readyz"

    return {part.name: path(part.name) for part in lab.nodes}


def packets(values: Mapping[str, Any]) -> str:
    """How the nodes read frames: `routing.packets`, `auto` where nothing is said."""
    routing = values.get("routing")
    said = routing.get("packets", "auto") if isinstance(routing, Mapping) else "auto"
    return str(said)


# What is seen


def scheduler_of(nodes: Sequence[NodeState]) -> str | None:
    """The name of the scheduler, None while there is none.

    Two may claim to be it for a moment: then the one with a link, of those the later term.
    """
    claims = [node for node in nodes if node.role == "scheduler"]
    best = max(claims, key=lambda node: (node.link, node.term or 0), default=None)
    return None if best is None else best.name


def is_settled(documents: Sequence[Mapping[str, Any] | None], web: bool, channel: bool) -> bool:
    """Whether one is scheduler and sees these nodes, by their status documents.

    With a channel all nodes must say that it is this one; terms begin with 1. Without a proxy
    (`web` false) nodes count as failed until something is started on them; so that isn't asked
    there. Nodes that are each alone have no scheduler to wait for.
    """
    told = [document for document in documents if document]
    if told and all(document.get("role") == "alone" for document in told):
        return True
    schedulers = [document for document in told if document.get("role") == "scheduler"]
    if not schedulers:
        return False
    if channel and any(document.get("term") for document in told):
        names = {document.get("scheduler") for document in told}
        if names != {schedulers[0].get("node")} or len(told) < len(documents):
            return False
    # Others may be down, and stay so.
    waited = {document.get("node") for document in told} if channel else None
    rows = schedulers[0].get("nodes") or []
    return not web or not any(
        row.get("failed") and row.get("enabled") and (waited is None or row.get("name") in waited)
        for row in rows
    )
