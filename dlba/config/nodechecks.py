"""What must hold between the nodes of the array, its VIP and this node's own keys.

Pure, and part of `dlba.config.checks`: generators of problems over the read values and the
document. Values may be `INVALID` where a problem was reported already: they are skipped.
Source: routing.md "The frame path" 1 (scheduler MACs), the seed's Fig. 5.
"""

from collections.abc import Iterable, Iterator

from dlba.addresses import is_host, scheduler_mac
from dlba.config.nodes import Node, locate
from dlba.config.problems import Problem, printable, quoted
from dlba.config.scheduling import ArrayNodeConfig
from dlba.config.shapes import known, suggestion
from dlba.config.values import ArrayConfig, NodeConfig

__all__ = ["array_problems", "array_warnings"]


def array_problems(config: NodeConfig, root: Node, array: Node) -> Iterator[Problem]:
    """All problems of the array's nodes. `root`, `array`: as of `dlba.config.checks.check`."""
    if not known(config.array, config.array.nodes):
        return
    yield from _vip(config, root, array)
    yield from _this_node(config, root)
    yield from _one_of_each(config.array, array)
    yield from _macs_differ(config.array, array)
    yield from _somebody_enabled(config.array, array)
    yield from _ports_once(config.array, array)


def array_warnings(config: NodeConfig, array: Node) -> Iterator[Problem]:
    """What is no error and yet surely not meant: listeners and nodes that nobody is sent to."""
    web, routing = config.array.web, config.array.routing
    if not config.array.nodes or not known(config.array.vip, routing.ports):
        return
    nodes = [node for _, node in _read(config.array.nodes)]
    if all(known(node.weight) and (node.weight == 0 or not node.enabled) for node in nodes):
        message = "expected an enabled node with a weight above 0, got none: nobody takes a client"
        yield locate(array, "nodes").place.problem(message)
    listeners = list(enumerate(web.listen)) if web else []
    on_vip = [
        (index, listener.port)
        for index, listener in listeners
        if known(listener.address, listener.port) and listener.address in (None, config.array.vip)
    ]
    for index, port in on_vip:
        if port not in routing.ports:
            message = f"expected one of routing.ports, got {port}: no client's frame gets there"
            yield locate(array, "web", "listen", index, "port").place.problem(message)
    for index, port in enumerate(routing.ports):
        if web and known(port) and port not in {port for _, port in on_vip}:
            message = f"expected a port of web.listen, got {port}: nobody answers there"
            yield locate(array, "routing", "ports", index).place.problem(message)


def _vip(config: NodeConfig, root: Node, array: Node) -> Iterator[Problem]:
    vip = config.array.vip
    if not known(vip):
        return
    wanted = "with an interface" if config.interface else "with nodes" if config.array.nodes else ""
    if wanted and vip is None:
        yield array.place.problem(f'expected a key "vip" {wanted}, got none')
    elif wanted and vip is not None and not is_host(vip):
        message = f"expected an IPv4 address of a machine {wanted}, got {quoted(vip)}"
        yield locate(array, "vip").place.problem(message)


def _this_node(config: NodeConfig, root: Node) -> Iterator[Problem]:
    nodes = config.array.nodes
    if config.interface and not nodes:
        message = "expected nodes in the array with an interface, got none"
        yield locate(root, "interface").place.problem(message)
    elif nodes and known(config.node) and config.node not in nodes:
        near = suggestion(config.node, nodes)
        hint = f" ({near})" if near else ""
        names = printable(", ".join(nodes))
        expected = f"one of {names}" if len(names) <= 200 else "the name of a node of the array"
        message = f"expected {expected}, got {quoted(config.node)}{hint}"
        yield locate(root, "node").place.problem(message)


def _one_of_each(config: ArrayConfig, array: Node) -> Iterator[Problem]:
    numbers: dict[int, str] = {}
    addresses: dict[str | None, str] = {config.vip: "the VIP"} if known(config.vip) else {}
    for name, node in _read(config.nodes):
        if known(node.number):
            first = numbers.setdefault(node.number, name)
            if first != name:
                message = f"expected a number of its own, got that of node {first}"
                yield locate(array, "nodes", name, "number").place.problem(message)
        if known(node.address):
            first = addresses.setdefault(node.address, f"node {name}")
            if first != f"node {name}":
                message = f"expected an address of its own, got that of {first}"
                yield locate(array, "nodes", name, "address").place.problem(message)


def _macs_differ(config: ArrayConfig, array: Node) -> Iterator[Problem]:
    """No MAC twice, scheduler MACs included: a frame for it would go to either."""
    own_mac = config.routing.own_mac
    if not known(own_mac):
        return
    taken: dict[bytes, str] = {}
    for name, node in _read(config.nodes):
        if known(node.mac):
            first = taken.setdefault(node.mac, f"node {name}")
            if first != f"node {name}":
                message = f"expected a MAC address of its own, got that of {first}"
                yield locate(array, "nodes", name, "mac").place.problem(message)
    for name, node in _read(config.nodes):
        if not known(node.mac, node.scheduler_mac):
            continue
        where = locate(array, "nodes", name, "scheduler_mac").place
        if own_mac:
            if node.scheduler_mac is not None:
                yield where.problem("expected no scheduler_mac with routing.own_mac, got one")
            continue
        second = node.scheduler_mac if node.scheduler_mac is not None else scheduler_mac(node.mac)
        first = taken.setdefault(second, f"node {name} as scheduler")
        if first != f"node {name} as scheduler":
            message = f"expected a scheduler MAC of its own, got {second.hex(':')}, that of {first}"
            yield where.problem(message)


def _somebody_enabled(config: ArrayConfig, array: Node) -> Iterator[Problem]:
    nodes = [node for _, node in _read(config.nodes)]
    if nodes and all(known(node.enabled) and not node.enabled for node in nodes):
        message = "expected one node or more that is enabled, got none"
        yield locate(array, "nodes").place.problem(message)


def _ports_once(config: ArrayConfig, array: Node) -> Iterator[Problem]:
    ports = config.routing.ports
    for index, port in enumerate(ports if known(ports) else ()):
        if known(port) and port in ports[:index]:
            message = f"expected each port once, got {port} again"
            yield locate(array, "routing", "ports", index).place.problem(message)


def _read(nodes: dict[str, ArrayNodeConfig]) -> Iterable[tuple[str, ArrayNodeConfig]]:
    return ((name, node) for name, node in nodes.items() if known(node))
