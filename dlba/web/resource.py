"""Puts the proxy behind any Twisted site: `ProxyResource`, an `IResource`.

Choice of the backend, persistence, header rules, checks and relay are those of the proxy with ports
of its own (`dlba.web.service`); what speaks with the client is Twisted's. A request whose body
Twisted has put into a file is carried by `ProxyResource.render`; with `ProxyRequest` as the site's
`requestFactory` bodies are carried as they come. docs/resource.md has an example.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from dlba.config.files import read_pages
from dlba.config.keys import SecretKey
from dlba.config.load import load_text
from dlba.config.values import WebConfig
from dlba.web.proxy import AccessLog, Proxy
from dlba.web.running import Running
from dlba.web.sitefront import SiteFront

__all__ = ["ProxyRequest", "ProxyResource", "ProxyService", "web_config"]


def web_config(web: Mapping[str, Any], base: Path | None = None) -> WebConfig:
    """What stands under `web` in an array.yaml, as Python values, checked as there.

    `listen` may be missing, and with one pool `sites` too: then one site takes all requests.
    `base`: where relative paths start; None: the current folder. Raises ConfigError with every
    problem, its keys below `array.web`.
    """
    values: dict[str, Any] = {"listen": [{"port": 0}], **web}
    pools = values.get("pools")
    if "sites" not in values and isinstance(pools, Mapping) and len(pools) == 1:
        values["sites"] = [{"hosts": ["*"], "default": True, "pool": next(iter(pools))}]
    # JSON is YAML. What it has no word for (paths, networks) is written as text.
    text = json.dumps({"node": "resource", "array": {"web": values}}, default=str)
    config = load_text(text, base or Path(), "<web>").array.web
    assert config is not None
    return config


class ProxyService(Service):
    """Runs what a `ProxyResource` needs: sockets of backends, deadlines, checks. Starts once."""

    def __init__(self, reactor: Any, proxy: Proxy) -> None:
        self._reactor = reactor
        self._proxy = proxy
        self._running = Running(reactor, proxy)
        #: The requests under way.
        self.fronts: set[SiteFront] = set()
        self._stopped: Deferred[None] | None = None
        self._stop_call: Any = None

    @property
    def serving(self) -> bool:
        """Whether requests are carried now."""
        return bool(self.running) and not self._proxy.stopping

    def startService(self) -> None:
        """Carry requests. Raises RuntimeError where it was stopped before."""
        if self._proxy.stopping:
            raise RuntimeError("a stopped ProxyService doesn't start again: make a new resource")
        super().startService()
        self._running.start()

    def configured(self) -> None:
        """The proxy has taken over another configuration."""
        self._running.configured()

    def stopService(self) -> Deferred[None]:
        """Refuse new requests, wait for those under way up to `timeouts.stop`, then cut them."""
        started = self.running
        super().stopService()
        if not started:
            return self._stopped or succeed(None)
        self._proxy.stopping = True
        stopped: Deferred[None] = Deferred()
        self._stopped = stopped
        self._stop_call = self._reactor.callLater(self._proxy.timeouts.stop, self.abort)
        self._stop_if_idle()
        return stopped

    def abort(self) -> None:
        """Cut off the requests under way, now."""
        for front in tuple(self.fronts):
            self._proxy.poller.guarded(front, front.cut)

    def over(self, front: SiteFront) -> None:
        """The request of `front` has ended."""
        self.fronts.discard(front)
        if self._proxy.stopping:
            # In a turn of its own: the request that ended is still on the stack.
            self._reactor.callLater(0, self._stop_if_idle)

    def _stop_if_idle(self) -> None:
        stopped = self._stopped
        if stopped is None or self.fronts:
            return
        self._stopped = None
        if self._stop_call.active():
            self._stop_call.cancel()
        self._running.stop()
        stopped.callback(None)


class ProxyResource(Resource):
    """Answers requests by backends of a pool; put it into a site, at its root or below.

    `service` has to be started before requests come, and stopped at the end: it is a Twisted
    service. `proxy` has the pools, counters and limits.
    """

    _log = Logger()
    isLeaf = True

    def __init__(
        self,
        reactor: Any,
        web: WebConfig | Mapping[str, Any],
        *,
        keys: Sequence[SecretKey] = (),
        log: AccessLog | None = None,
        strip_prefix: bool = False,
    ) -> None:
        """`web`: what stands under `web` in an array.yaml, loaded or as of `web_config`.

        `keys`: what route tokens are signed with, see `dlba.config.keys`; none: a key of its own,
        which nobody else verifies and which is gone with it. `log`: called for each request, see
        `dlba.web.proxy.AccessLog`. `strip_prefix`: backends see the path without what led to this
        resource; else all of it, as the client sent it. Raises ConfigError, and OSError or
        DLBAError when an error page can't be read.
        """
        super().__init__()
        config = web if isinstance(web, WebConfig) else web_config(web)
        signing = tuple(keys) or (SecretKey("own", secrets.token_bytes(32)),)
        self.proxy = Proxy(config, signing, log, None, read_pages(config))
        self.service = ProxyService(reactor, self.proxy)
        self._strip_prefix = strip_prefix

    def configure(self, web: WebConfig | Mapping[str, Any]) -> None:
        """Take over another configuration for requests to come. Raises as the constructor does."""
        config = web if isinstance(web, WebConfig) else web_config(web)
        self.proxy.configure(config, read_pages(config))
        self.service.configured()

    def render(self, request: Request) -> int:
        """Carry `request`, which has been read to its end. See `IResource`."""
        if not self.service.serving:
            SiteFront(self.proxy, request, lambda front: None).refuse(503, "the service is stopped")
            return NOT_DONE_YET
        front = self._front(request)
        try:
            front.begin(self._target(request))
        except Exception:  # noqa: BLE001 - the boundary of one request
            self.proxy.counters.internal_errors += 1
            self._log.failure("an exception ended one request")
            front.abort()
        return NOT_DONE_YET

    def render_live(self, request: Request, length: int | None) -> SiteFront:
        """Carry `request`, whose body is to come, while `service.serving`.

        `length`: bytes of the body, None for a chunked one.
        """
        front = self._front(request)
        front.begin_live(self._target(request), length)
        return front

    def _front(self, request: Request) -> SiteFront:
        front = SiteFront(self.proxy, request, self.service.over)
        self.service.fronts.add(front)
        return front

    def _target(self, request: Request) -> bytes:
        """The target that a backend is asked for."""
        target: bytes = request.uri
        if not self._strip_prefix or not request.prepath:
            return target
        path, mark, query = target.partition(b"?")
        # Not `postpath`: its escapes are decoded.
        rest = path.split(b"/")[1 + len(request.prepath) :]
        return b"/" + b"/".join(rest) + mark + query


class ProxyRequest(Request):
    """A site's request whose body goes to a backend as it comes.

    For `Site(root, requestFactory=ProxyRequest)`. Without it Twisted puts every body into a file
    first, and so it does here for other resources, and over HTTP/2.
    """

    _front: SiteFront | None = None

    def gotLength(self, length: int | None) -> None:
        """The head is complete. See `twisted.web.http.Request`."""
        resource = None if length == 0 else self._resource()
        if resource is None:
            super().gotLength(length)
            return
        self._front = resource.render_live(self, length)

    def _resource(self) -> ProxyResource | None:
        """The resource that is asked for, if it is a proxy."""
        channel: Any = self.channel
        # Twisted tells the request itself only behind the body. HTTP/2 has none of these, and at
        # this point not all fields either.
        line = [getattr(channel, name, None) for name in ("_command", "_path", "_version")]
        if None in line:
            return None
        self.method, self.uri, self.clientproto = cast("list[bytes]", line)
        self.path = self.uri.partition(b"?")[0]
        self.args = {}
        self.site = channel.site
        self.prepath = []
        self.postpath = [unquote_to_bytes(part) for part in self.path[1:].split(b"/")]
        try:
            found = self.site.getResourceFor(self)
        except Exception:  # noqa: BLE001 - a resource's own; it is asked again behind the body
            return None
        live = isinstance(found, ProxyResource) and found.service.serving
        return found if live else None

    def handleContentChunk(self, data: bytes) -> None:
        """More of the body. See `twisted.web.http.Request`."""
        if self._front is None:
            super().handleContentChunk(data)
        else:
            self._front.take(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The body is complete. See `twisted.web.http.Request`."""
        if self._front is None:
            super().requestReceived(command, path, version)
        else:
            self._front.take_end()
