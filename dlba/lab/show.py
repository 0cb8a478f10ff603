"""Shows a lab to people and programs: who runs, who is scheduler, what to try.

An adapter: it looks at processes and links, and asks the nodes' monitors.
"""

from __future__ import annotations

from typing import Any

from dlba.lab import network, programs
from dlba.lab.plan import BACKEND_PORT, NodeState, Part, namespace, scheduler_of

__all__ = ["document", "of", "status_lines", "to_try"]


def document(lab: programs.Lab) -> dict[str, Any]:
    """What is seen of the lab from outside; the contract's document and a little more."""
    name = lab.plan.name
    pids = {part.name: programs.running(name, part.name) for part in lab.plan.programs}
    stopped = {part for part, pid in pids.items() if pid is not None and programs.is_stopped(pid)}
    running = (node.name for node in lab.plan.nodes if pids[node.name] is not None)
    asked = [node for node in running if node not in stopped]
    documents = programs.ask_status(name, asked)

    def state(node: Part) -> NodeState:
        said = documents.get(node.name) or {}
        pid, front = pids[node.name], node.links[0]
        link = network.has_link(namespace(name, node.name), front.interface)
        role, term = said.get("role"), said.get("term")
        return NodeState(
            node.name,
            node.address,
            front.mac,
            pid is not None,
            link,
            role,
            pid,
            term,
            node.name in stopped,
        )

    nodes = [state(node) for node in lab.plan.nodes]
    return {
        "name": name,
        "vip": lab.vip,
        "scheduler": scheduler_of(nodes),
        "nodes": [
            {
                "name": node.name,
                "address": node.address,
                "mac": node.mac,
                "running": node.running,
                "link": node.link,
                "role": node.role,
                "term": node.term,
                "pid": node.pid,
                "stopped": node.stopped,
            }
            for node in nodes
        ],
        "backends": [
            {
                "name": backend.name,
                "address": f"{backend.address}:{BACKEND_PORT}",
                "running": pids[backend.name] is not None,
                "pid": pids[backend.name],
                "stopped": backend.name in stopped,
            }
            for backend in lab.plan.backends
        ],
        "client": {"address": lab.plan.client.address},
    }


def status_lines(seen: dict[str, Any]) -> list[str]:
    """What `document` gave, for people."""
    nodes, backends, client = seen["nodes"], seen["backends"], seen["client"]
    rows = [
        ("name", "address", "mac", "runs", "link", "role"),
        *((n["name"], n["address"], n["mac"], *_seen(n), n["role"] or "-") for n in nodes),
        *((b["name"], b["address"], "-", *_seen(b), "backend") for b in backends),
        ("client", client["address"], "-", "-", "-", "client"),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    head = f"lab {seen['name']}  vip {seen['vip'] or '-'}"
    return [
        f"{head}  scheduler {seen['scheduler'] or '-'}",
        *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows),
    ]


def _seen(row: dict[str, Any]) -> list[str]:
    runs, link = ({True: "yes", False: "no", None: "-"}[row.get(k)] for k in ("running", "link"))
    return ["stopped" if row.get("stopped") else runs, link]


def of(name: str) -> str:
    """What a command line says of the lab's name."""
    return "" if name == "lab" else f" --name {name}"


def to_try(lab: programs.Lab) -> list[str]:
    """Command lines to begin with."""
    command = f"dlba lab{of(lab.plan.name)}"
    vip = lab.vip or lab.plan.nodes[0].address
    # With a channel whoever is left takes the scheduler's place; without one nobody does, so that
    # the first node, which is it, had better stay.
    lost = lab.plan.nodes[0 if lab.channel else -1].name
    tries = [
        (f"exec client -- curl -ki https://{vip}/", "X-Backend: who answered"),
        (f"exec client -- curl -i http://{vip}/static/logo.png", "chosen by URL"),
        ("exec a -- dlba status", "the tables of node a"),
        (f"kill {lost}", f"then: status, start {lost}"),
        (f"cut {lost}", f"then: status, heal {lost}"),
        ("down", "leaves nothing behind"),
    ]
    if not lab.web:
        # No proxy: whatever server the nodes run. One that shows who answers is at hand.
        serve = f"exec a -- dlba backend --name a --address {vip} --port 80"
        tries[:2] = [
            (serve, "some server on each node, each in a terminal of its own"),
            (f"exec client -- curl -i http://{vip}/", "X-Backend: which node answered"),
        ]
    width = max(len(text) for text, _ in tries)
    return ["Try:", *(f"  {command} {text.ljust(width)}  # {why}" for text, why in tries)]
