"""Counts what happened: one slot a counter, each named once, here.

A hot path adds with `counters.requests += 1`, which costs a slot and nothing more. Everything that
is refused, dropped or cut off adds one to one of these, and where a request is lost with it to the
one of that request too. `snapshot()` is what `/status`
shows. Counters only grow while the process lives; gauges (open connections) stand with their owner.
"""

from __future__ import annotations

from typing import Final

__all__ = ["WEB_COUNTERS", "Counters"]

#: name → what one more of it means. The order is the order of `/status`.
WEB_COUNTERS: Final[dict[str, str]] = {
    "connections_accepted": "client connections accepted",
    "connections_refused": "client connections closed at accept: over `per_client`",
    "accepts_paused": "times a listener paused: at `connections`, or out of descriptors",
    "handshakes": "TLS handshakes finished",
    "handshakes_resumed": "TLS handshakes finished from an earlier session",
    "handshakes_failed": "TLS handshakes that failed or took longer than `timeouts.handshake`",
    "tls_floods_cut": "TLS connections closed for messages that never carry data",
    "requests": "requests whose head was read and valid",
    "requests_redirected": "requests answered with a redirection to HTTPS",
    "requests_refused": "requests answered by DLBA itself: they break a rule (4xx, 501, 505)",
    "requests_timed_out": "requests cut off by a deadline on the client's side",
    "clients_shed": "clients reset for what was kept for them while `buffer_memory` was full",
    "requests_aborted": "requests whose client went away before the response was complete",
    "responses": "final responses relayed completely",
    "tunnels": "connections that switched to another protocol (WebSocket)",
    "tunnels_timed_out": "such connections cut off: nothing moved for too long",
    "responses_broken": "responses that broke off after their head was relayed",
    "backend_connects": "connections to backends begun",
    "backend_reuses": "requests sent over a kept connection to their backend (`reuse`)",
    "backend_connect_failures": "connections to backends refused, unreachable or timed out",
    "backend_errors": "backends that closed early or sent what isn't HTTP (502)",
    "backend_timeouts": "responses that didn't come within `timeouts.response` (504)",
    "backends_unavailable": "requests for which no backend could be reached (503, 504)",
    "own_connect_failures": "connections not begun for want of our own descriptors or ports (503)",
    "reroutes": "requests sent to another backend than the one first chosen",
    "retries": "requests sent once more after the connection broke before any response",
    "cookies_injected": "persistence cookies given out",
    "checks": "checks of backends made, as `check` of their pool asks",
    "checks_failed": "checks of backends with another result than a status of 200 to 399 in time",
    "checks_put_off": "checks not made for want of our own descriptors or ports",
    "internal_errors": "exceptions caught at the boundary of one connection: a bug, see the log",
}


class Counters:
    """Every counter of `WEB_COUNTERS` as an attribute of its name, an int that starts at 0."""

    __slots__ = tuple(WEB_COUNTERS)

    connections_accepted: int
    connections_refused: int
    accepts_paused: int
    handshakes: int
    handshakes_resumed: int
    handshakes_failed: int
    tls_floods_cut: int
    requests: int
    requests_redirected: int
    requests_refused: int
    requests_timed_out: int
    clients_shed: int
    requests_aborted: int
    responses: int
    tunnels: int
    tunnels_timed_out: int
    responses_broken: int
    backend_connects: int
    backend_reuses: int
    backend_connect_failures: int
    backend_errors: int
    backend_timeouts: int
    backends_unavailable: int
    own_connect_failures: int
    reroutes: int
    retries: int
    cookies_injected: int
    checks: int
    checks_failed: int
    checks_put_off: int
    internal_errors: int

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)

    def snapshot(self) -> dict[str, int]:
        """Every counter by name, as of now."""
        return {name: getattr(self, name) for name in self.__slots__}
