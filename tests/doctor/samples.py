"""A node's configuration and a machine on which all is well, to be changed piece by piece."""

import json
from pathlib import Path

import attrs

from dlba.config.load import load_text
from dlba.config.values import NodeConfig
from dlba.doctor.facts import Facts, Finding, Level
from dlba.routing.needs import LABEL, Address, Feature, Interface
from tests.routing.machines import ADDRESS, MAC, PEER, PEER_MAC, VIP

OTHER = {"number": 1, "address": PEER, "mac": PEER_MAC}
CAPABILITIES = frozenset({"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE"})
WEB = {
    "listen": [{"port": 80}],
    "sites": [{"hosts": ["*"], "default": True, "pool": "app"}],
    "pools": {"app": {"backends": {"app1": {"address": "192.0.2.1:80"}}}},
}
#: The sysctls of eth0 and dlba0 as a node leaves them on a strict machine.
SYSCTLS = {
    (device, key): value
    for device, values in (("all", (1, 2, 1)), ("eth0", (0, 0, 2)), ("dlba0", (0, 0, 2)))
    for key, value in zip(("arp_ignore", "arp_announce", "rp_filter"), values, strict=True)
}
ETH0 = Interface(2, "eth0", MAC, 1500, True, True, (ADDRESS,))
DLBA0 = Interface(3, "dlba0", b"", 1500, True, True, (VIP,), ethernet=False)
ON_LO = Address("lo", VIP, 32, LABEL)
ON = Feature(active=True, requested=True, changeable=True)
OFF = Feature(active=False, requested=False, changeable=True)


def text(*, web=True, node=None, nodes=None, routing=None) -> str:
    """The text of the node.yaml of node a, of two; other keys by `node`, `nodes`, `routing`.

    A key of `node` that is None is left out.
    """
    array = {
        "vip": VIP,
        "nodes": {"a": {"number": 0, "address": ADDRESS, "mac": MAC.hex(":")}, "b": OTHER},
        "routing": {"ports": [80]} | (routing or {}),
    }
    if nodes is not None:
        array["nodes"] = nodes
    if web:
        array["web"] = WEB
    whole = {"node": "a", "interface": "eth0", "array": array} | (node or {})
    return json.dumps({key: value for key, value in whole.items() if value is not None})


def config(folder: str | Path = "/none", **changes) -> NodeConfig:
    return load_text(text(**changes), Path(folder))


def facts(**changes) -> Facts:
    """Those of node a while it runs as scheduler; `changes` by name."""
    well = Facts(
        running=True,
        role="scheduler",
        capabilities=CAPABILITIES,
        interface=ETH0,
        tun=DLBA0,
        addresses=(Address("eth0", ADDRESS, 24, "eth0"), ON_LO, Address("dlba0", VIP, 32, "")),
        sysctls=SYSCTLS,
        features={"rx-lro": OFF, "rx-gro": ON, "rx-gro-hw": OFF},
        keys=1,
    )
    return attrs.evolve(well, **changes)


def fresh(**changes) -> Facts:
    """Those of a machine where no node has ever run."""
    untouched = {
        "running": False,
        "role": None,
        "tun": None,
        "addresses": (Address("eth0", ADDRESS, 24, "eth0"),),
        "sysctls": {name: int(name[1] == "rp_filter") for name in SYSCTLS if name[0] != "dlba0"},
    }
    return facts(**(untouched | changes))


def bad(found: list[Finding]) -> list[tuple[str, str]]:
    """Level and subject of what isn't ok."""
    return [(str(one.level), one.about) for one in found if one.level is not Level.OK]
