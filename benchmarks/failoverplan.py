"""Decides what runs in failover.py beside DLBA: the configurations of a keepalived pair.

Pure. Each of the two nodes runs keepalived, which moves the VIP by VRRP, and HAProxy, which serves
on it: with the same certificate, backends and persistence as DLBA in its lab, so that a try or a
download costs the same work. As people run it: HAProxy listens on all addresses of both nodes all
the time, and a node that comes back doesn't take the VIP from one that has it, as with DLBA.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

from benchmarks.setups import HAPROXY_DEFAULTS, MAXIMUM_CONNECTIONS
from dlba.lab.plan import BACKEND_PORT, VIP, Part

__all__ = [
    "CUT",
    "DLBA",
    "FAULTS",
    "KEEPALIVED",
    "KILL",
    "PAIR",
    "SUBJECTS",
    "TARGETS",
    "Pair",
    "haproxy",
    "keepalived",
]

KILL: Final = "kill"
CUT: Final = "link cut"
FAULTS: Final = (KILL, CUT)

DLBA: Final = "dlba"
PAIR: Final = 2
"""Nodes of a keepalived pair."""

#: Fault → the longest outage of DLBA, in seconds, that is good enough.
TARGETS: Final = {KILL: 0.150, CUT: 0.450}

#: Of the first and the second node; only the order counts.
_PRIORITIES: Final = (150, 100)


@attrs.frozen
class Pair:
    """A keepalived pair as a subject. `advertise`: seconds between two advertisements."""

    name: str
    advertise: float

    @property
    def down_after(self) -> float:
        """Seconds without advertisements until the last backup takes over (RFC 5798, 6.1)."""
        return self.advertise * (3 + (256 - min(_PRIORITIES)) / 256)


KEEPALIVED: Final = (Pair("keepalived 1 s", 1.0), Pair("keepalived 100 ms", 0.1))
SUBJECTS: Final = (DLBA, *(pair.name for pair in KEEPALIVED))


def keepalived(node: Part, number: int, advertise: float) -> str:
    """keepalived.conf of a node; `number`: 0 or 1, `advertise`: seconds."""
    return f"""\
global_defs {{
  router_id {node.name}
  vrrp_version 3
}}
vrrp_instance web {{
  state BACKUP
  nopreempt
  interface {node.links[0].interface}
  virtual_router_id 10
  priority {_PRIORITIES[number]}
  advert_int {advertise:g}
  virtual_ipaddress {{
    {VIP}/32
  }}
}}
"""


def haproxy(pem: Path, backends: Sequence[Part]) -> str:
    """haproxy.cfg. `pem`: certificate and key in one file."""
    servers = "".join(
        f"  server {part.name} {part.address}:{BACKEND_PORT} cookie {part.name}\n"
        for part in backends
    )
    return f"""\
global
  nbthread 1
  maxconn {MAXIMUM_CONNECTIONS}

{HAPROXY_DEFAULTS}
frontend web
  bind :80
  bind :443 ssl crt {pem} alpn http/1.1
  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
  http-request set-header X-Forwarded-Proto http unless {{ ssl_fc }}
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  default_backend app

backend app
  balance leastconn
  cookie PROXY insert indirect nocache httponly attr SameSite=Lax
{servers}"""
