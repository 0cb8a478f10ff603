"""Decides how those who are attacked are configured: DLBA, HAProxy and nginx, for the same sites.

Pure. Each serves plain and TLS from one process with one thread, with the same deadlines as far as
each has them: HAProxy and nginx count an inactivity where DLBA counts the time of a whole head.
`/storm`, `/mute`, `/stuck` and `/dead` go to backends that don't do as they should, the rest to
one that does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import attrs

from benchmarks.abuseplan import Deadlines
from benchmarks.setups import BODY, Ports

__all__ = ["BUFFER_MEMORY", "Backends", "backend", "dlba", "haproxy", "nginx"]

BUFFER_MEMORY: Final = 32 << 20
"""`limits.buffer_memory`: little, so that an attack reaches it."""

CONNECTIONS: Final = 8000
"""Connections at once of those who have descriptors enough."""


@attrs.frozen
class Backends:
    """Ports of loopback; nobody listens on those of `dead`."""

    app: int
    storm: int
    mute: int
    stuck: int
    dead: tuple[int, int]

    def bad(self) -> dict[str, tuple[int, ...]]:
        """Name of path and pool → ports."""
        return {
            "storm": (self.storm,),
            "mute": (self.mute,),
            "stuck": (self.stuck,),
            "dead": self.dead,
        }


def _nginx(folder: Path, name: str, connections: int, http: str) -> str:
    paths = "".join(
        f"  {kind}_temp_path {folder}/{name}-{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""\
daemon off;
worker_processes 1;
pid {folder}/{name}.pid;
error_log {folder}/{name}.log error;
events {{ worker_connections {connections}; }}
http {{
  access_log off;
  default_type text/plain;
  large_client_header_buffers 4 128k;
{paths}{http}}}
"""


def backend(folder: Path, port: int) -> str:
    """nginx.conf of the backend that does as it should; `big` in `folder` is its large body."""
    return _nginx(
        folder,
        "backend",
        4096,
        f"""\
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    client_max_body_size 0;
    location / {{ return 200 {BODY.decode("ascii")}; }}
    location = /big {{ alias {folder}/big; }}
  }}
""",
    )


def dlba(
    ports: Ports,
    monitor: int,
    backends: Backends,
    deadlines: Deadlines,
    certificate: Path,
    key: Path,
    state: Path,
    few: bool,
) -> str:
    """node.yaml. `few`: it will have few descriptors, and is told to take more clients."""
    tls = {"certificates": [{"certificate": str(certificate), "key": str(key)}]}
    pools = {"app": (backends.app,), **backends.bad()}
    limits: dict[str, int] = {"buffer_memory": BUFFER_MEMORY}
    if few:
        limits["connections"] = 100_000
    web = {
        "listen": [
            {"address": "127.0.0.1", "port": ports.plain},
            {"address": "127.0.0.1", "port": ports.tls, "tls": tls},
        ],
        "timeouts": attrs.asdict(deadlines),
        "limits": limits,
        "sites": [
            *(
                {"hosts": ["*"], "paths": [f"/{name}"], "pool": name, "schedule": "connections"}
                for name in backends.bad()
            ),
            {"hosts": ["*"], "default": True, "pool": "app"},
        ],
        "pools": {
            name: {
                "backends": {
                    f"{name}{number}": {"address": f"127.0.0.1:{port}"}
                    for number, port in enumerate(ports_of, 1)
                }
            }
            for name, ports_of in pools.items()
        },
    }
    node = {
        "node": "attacked",
        "state": str(state),
        "monitor": {"listen": f"127.0.0.1:{monitor}"},
        "array": {"web": web},
        "log": {"access": f"{state}.access.log", "format": "haproxy"},
    }
    return json.dumps(node, indent=1) + "\n"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f}ms"


def haproxy(
    ports: Ports, backends: Backends, deadlines: Deadlines, pem: Path, connections: int
) -> str:
    """haproxy.cfg. `pem`: certificate and key in one file; `connections`: maxconn."""
    rules = "".join(f"  use_backend {name} if {{ path /{name} }}\n" for name in backends.bad())
    pools = "".join(
        f"\nbackend {name}\n"
        + "".join(f"  server {name}{n} 127.0.0.1:{p}\n" for n, p in enumerate(numbers, 1))
        for name, numbers in backends.bad().items()
    )
    return f"""\
global
  nbthread 1
  maxconn {connections}

defaults
  mode http
  timeout connect 1s
  timeout http-request {_ms(deadlines.head)}
  timeout http-keep-alive {_ms(deadlines.idle)}
  timeout client {_ms(deadlines.body)}
  timeout server {_ms(deadlines.response)}
  option http-server-close
  http-reuse never

frontend web
  bind 127.0.0.1:{ports.plain} backlog 4096
  bind 127.0.0.1:{ports.tls} ssl crt {pem} alpn http/1.1 backlog 4096
  http-request set-header X-Forwarded-For %[src]
{rules}  default_backend app

backend app
  balance leastconn
  cookie PROXY insert indirect nocache httponly attr SameSite=Lax
  server app1 127.0.0.1:{backends.app} cookie app1
{pools}"""


def nginx(
    folder: Path,
    ports: Ports,
    backends: Backends,
    deadlines: Deadlines,
    files: tuple[Path, Path],
    name: str,
    connections: int,
) -> str:
    """nginx.conf of a proxy. `files`: certificate and key; `connections`: of its worker."""
    pools = {"app": (backends.app,), **backends.bad()}
    upstreams = "".join(
        f"  upstream {pool} {{ {' '.join(f'server 127.0.0.1:{port};' for port in numbers)} }}\n"
        for pool, numbers in pools.items()
    )
    locations = "".join(
        f"    location /{'' if pool == 'app' else pool} {{ proxy_pass http://{pool}; }}\n"
        for pool in pools
    )
    certificate, key = files
    return _nginx(
        folder,
        name,
        connections,
        f"""\
  client_header_timeout {_ms(deadlines.head)};
  client_body_timeout {_ms(deadlines.body)};
  send_timeout {_ms(deadlines.write)};
  keepalive_timeout {_ms(deadlines.idle)};
  keepalive_requests 1000000;
  proxy_read_timeout {_ms(deadlines.response)};
  proxy_connect_timeout 1s;
  proxy_http_version 1.1;
  proxy_set_header Host $host;
  proxy_set_header X-Forwarded-For $remote_addr;
  client_max_body_size 0;
{upstreams}  server {{
    listen 127.0.0.1:{ports.plain} backlog=4096;
    listen 127.0.0.1:{ports.tls} ssl backlog=4096;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
{locations}  }}
""",
    )
