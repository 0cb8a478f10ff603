"""Decides what runs beside what: the configurations of nginx, HAProxy and DLBA for the same work.

Pure. The work: GET of BODY from one backend, over kept client connections, a new backend
connection for each request, persistence by cookie, X-Forwarded-For, -Proto and -Host set. Both
proxies serve plain and TLS from one process and one thread, with the same certificate.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import attrs

__all__ = [
    "BODY",
    "COUNT_HEADER",
    "COUNT_TARGET",
    "LOG_FORMAT",
    "Ports",
    "dlba",
    "haproxy",
    "nginx",
]

BODY: Final = b"0123456789abcdef" * 64
"""1 KiB that needs no quotes in nginx's configuration."""

COUNT_TARGET: Final = "/count"
COUNT_HEADER: Final = "X-Connection-Requests"
"""Of a response to COUNT_TARGET: requests so far on the backend connection that carried it."""

LOG_FORMAT: Final = "haproxy"

#: More than any load here opens; HAProxy derives its descriptor limit from it.
MAXIMUM_CONNECTIONS: Final = 4096


@attrs.frozen
class Ports:
    """Where one proxy listens on loopback."""

    plain: int
    tls: int

    def of(self, work: str) -> int:
        """The port for the work `plain` or `tls`."""
        return self.tls if work == "tls" else self.plain


def nginx(folder: Path, port: int) -> str:
    """nginx.conf: one worker, no access log, connections are kept for whoever wants that."""
    paths = "".join(
        f"  {kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_timeout 60s;
  keepalive_requests 1000000;
  default_type text/plain;
{paths}  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ return 200 {BODY.decode("ascii")}; }}
    location = {COUNT_TARGET} {{
      add_header {COUNT_HEADER} $connection_requests;
      return 200 {BODY.decode("ascii")};
    }}
  }}
}}
"""


#: How HAProxy serves in all benchmarks: a backend connection a request, as DLBA does.
HAPROXY_DEFAULTS = """\
defaults
  mode http
  timeout connect 1s
  timeout http-request 10s
  timeout http-keep-alive 60s
  timeout client 30s
  timeout server 30s
  option http-server-close
  http-reuse never
"""


def haproxy(ports: Ports, backend: int, pem: Path, syslog: int | None) -> str:
    """haproxy.cfg. `pem`: certificate and key in one file; `syslog`: UDP port, None: no log."""
    log = f"  log 127.0.0.1:{syslog} local0\n" if syslog is not None else ""
    use = "  log global\n  option httplog\n" if syslog is not None else ""
    return f"""\
global
  nbthread 1
  maxconn {MAXIMUM_CONNECTIONS}
{log}
{HAPROXY_DEFAULTS}{use}
frontend web
  bind 127.0.0.1:{ports.plain}
  bind 127.0.0.1:{ports.tls} ssl crt {pem} alpn http/1.1
  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
  http-request set-header X-Forwarded-Proto http unless {{ ssl_fc }}
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  default_backend app

backend app
  balance leastconn
  cookie PROXY insert indirect nocache httponly attr SameSite=Lax
  server app1 127.0.0.1:{backend} cookie app1
"""


def dlba(
    ports: Ports, backend: int, certificate: Path, key: Path, state: Path, log: Path | None
) -> str:
    """node.yaml, all defaults but the addresses; `log`: the access log, None: none.

    JSON is YAML and needs no quoting rules of ours.
    """
    tls = {"certificates": [{"certificate": str(certificate), "key": str(key)}]}
    node = {
        "node": "benchmark",
        "state": str(state),
        "array": {
            "web": {
                "listen": [
                    {"address": "127.0.0.1", "port": ports.plain},
                    {"address": "127.0.0.1", "port": ports.tls, "tls": tls},
                ],
                "sites": [{"hosts": ["*"], "default": True, "pool": "app"}],
                "pools": {"app": {"backends": {"app1": {"address": f"127.0.0.1:{backend}"}}}},
            }
        },
    }
    if log is not None:
        node["log"] = {"access": str(log), "format": LOG_FORMAT}
    return json.dumps(node, indent=1) + "\n"
