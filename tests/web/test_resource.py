"""A proxy behind Twisted sites, over sockets: what backends see, what clients get, how it ends."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from twisted.internet import reactor, tcp
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site
from zope.interface.verify import verifyObject

from dlba.config.load import load_text
from dlba.errors import ConfigError, HeadError
from dlba.monitor.accesslog import Record
from dlba.web import sitefront
from dlba.web.head import HeadLimits, parse_request
from dlba.web.resource import ProxyRequest, ProxyResource, web_config
from dlba.web.siteclient import PIECE, head_bytes
from tests.web.harness import (
    GET,
    KEYS,
    MIB,
    WAIT,
    ProxyTest,
    certificate,
    chunked,
    client_context,
    closed_port,
    configuration,
    eventually,
    in_thread,
    reply,
)

ROOT = Path(__file__).resolve().parents[2]
POOL = {"app": {"backends": {"a": {"address": "127.0.0.1:81"}}}}
#: `request_buffer` as it is unless told otherwise.
BUFFER = 256 * 1024
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


class ResourceTest(ProxyTest):
    """A test with a Twisted site. `serve` has `ProxyTest`'s options."""

    requests = Request

    def serve(self, *backends, tls=False, around=None, strip_prefix=False, keys=KEYS, **options):
        """`around`: makes the site's root of the proxy."""
        self._remember_descriptors()
        web = json.loads(configuration(backends or self.backends, **options))["array"]["web"]
        del web["listen"]
        self.resource = ProxyResource(
            reactor,
            web,
            keys=keys,
            log=lambda fields: self.records.append(Record(*fields)),
            strip_prefix=strip_prefix,
        )
        self.proxy, self.service = self.resource.proxy, self.resource.service
        self.on_reactor(self.service.startService)
        root = self.resource if around is None else around(self.resource)
        self.site = Site(root, requestFactory=self.requests)
        text = "tcp:0:interface=127.0.0.1"
        if tls:
            files = certificate("ecdsa", "a")
            text = text.replace("tcp", "ssl") + f":certKey={files['certificate']}"
            text += f":privateKey={files['key']}"
        listening = self.on_reactor(serverFromString(reactor, text).listen, self.site)
        self.listening = listening.result if isinstance(listening, Deferred) else listening
        self.port = self.tls_port = self.listening.getHost().port
        return self.proxy

    async def _tear_down(self):
        if self.proxy is not None:
            await maybeDeferred(self.listening.stopListening)
        await super()._tear_down()

    async def _until_idle(self):
        end = time.monotonic() + WAIT
        while (self.service.fronts or self.proxy.open_backends or self.transports()) and (
            time.monotonic() < end
        ):
            await deferLater(reactor, 0.01)
        self.assertEqual(self.transports(), [])
        self.assertEqual(self.service.fronts, set())
        self.assertEqual(self.proxy.open_backends, 0)
        self.assertEqual([b.name for b in self.proxy.backends() if b.open_connections], [])
        self.assertEqual(len(self.proxy.deadlines), 0)
        self.assertEqual(self.proxy.memory.used, 0)
        self.assertEqual(self.proxy.counters.internal_errors, self.expected_internal_errors)
        if self.service.running:
            # The reactor's own, where it is of the epoll kind.
            poller = self.proxy.poller
            self.assertEqual(len(poller._members), int(poller._front))

    def transports(self):
        """What Twisted has of connections to this site."""
        members = {*reactor.getReaders(), *reactor.getWriters()}
        return [member for member in members if isinstance(member, tcp.Server)]

    def buffered(self):
        """Bytes that Twisted holds for its clients."""
        return sum(len(t.dataBuffer) + t._tempDataLen for t in self.transports())

    def stop(self):
        """Stop the service; what is returned is no longer empty when it has."""
        done = []

        def stop():
            self.service.stopService().addCallback(done.append)

        self.on_reactor(stop)
        return done

    def status(self, request, method="GET"):
        return self.ask(request, method).status


class Carried:
    """What holds however the body of a request comes."""

    def upload(self, size, most, **options):
        """A body of `size` MiB to a backend that doesn't read at first; whether all was sent then.

        The proxy keeps at most `most` bytes meanwhile, and all of it arrives.
        """
        piece = os.urandom(MIB)
        found = hashlib.sha256()
        go = threading.Event()

        def script(wire):
            wire.head()
            go.wait(WAIT)
            found.update(wire.unread)
            left = size * MIB - len(wire.unread)
            while left:
                data = wire.sock.recv(min(left, 4 * MIB))
                assert data
                found.update(data)
                left -= len(data)
            wire.send(reply(b"ok"))

        def send():
            client.send(POST % (size * MIB))
            for _ in range(size):
                client.send(piece)

        self.backend(script)
        self.serve(**options)
        client = self.client(client_context() if options.get("tls") else None)
        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        # The kernel takes some MiB first.
        held = []
        paused = 0
        end = time.monotonic() + WAIT
        while paused < 20 and time.monotonic() < end:
            held.append(self.proxy.memory.used)
            still = any(front._paused for front in tuple(self.service.fronts))
            paused = paused + 1 if still else 0
            time.sleep(0.01)
        self.assertEqual(paused, 20)
        sent = not sender.is_alive()
        go.set()
        self.assertEqual(client.response().body, b"ok")
        sender.join(WAIT)
        self.assertEqual(found.digest(), hashlib.sha256(piece * size).digest())
        self.assertLessEqual(max(held), most)
        return sent

    @in_thread
    def test_a_request_byte_by_byte(self):
        app = self.backend()
        self.serve()
        response = self.ask(
            b"GET /a%2Fb/../c?x=%41 HTTP/1.1\r\nHost: Shop.Example:80\r\nX-One: 1\r\n"
            b"Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nX-Forwarded-For: 6.6.6.6\r\n"
            b"Forwarded: for=6.6.6.6\r\nTE: trailers\r\nAccept: \xe4\tb\r\n\r\n"
        )
        self.assertEqual(response.line, b"HTTP/1.1 200 Fine")
        self.assertEqual(response.body, b"app1")
        self.assertEqual(
            app.requests[0].head,
            b"GET /a%2Fb/../c?x=%41 HTTP/1.1\r\nHost: Shop.Example:80\r\nX-One: 1\r\n"
            b"Accept: \xe4\tb\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n"
            b"X-Forwarded-Host: Shop.Example:80\r\nConnection: close\r\n\r\n",
        )

    @in_thread
    def test_bodies_by_length_and_chunked(self):
        app = self.backend()
        self.serve()
        client = self.client()
        for head, body in (
            (b"Content-Length: 5", b"hello"),
            (b"Content-Length: 0", b""),
            (b"Transfer-Encoding: chunked", chunked(b"hello", 2)),
        ):
            client.send(b"POST /p HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n\r\n" + body)
            self.assertEqual(client.response().body, b"app1")
        for request, body in zip(app.requests, (b"hello", b"", b"hello"), strict=True):
            self.assertEqual(request.get(b"Content-Length"), b"%d" % len(body))
            self.assertEqual(request.all(b"Transfer-Encoding"), [])
            self.assertEqual(request.body, body)

    @in_thread
    def test_forms_arrive_as_they_were(self):
        app = self.backend()
        self.serve()
        body = b"a=1&a=2"
        self.ask(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            b"Content-Length: 7\r\n\r\n" + body
        )
        self.assertEqual(app.requests[0].body, body)

    @in_thread
    def test_the_next_backend_takes_what_a_dead_one_cannot(self):
        self.backend()
        self.serve(closed_port(), self.backends[0])
        for _ in range(2):
            response = self.ask(POST % 5 + b"hello")
            self.assertEqual((response.status, response.body), (200, b"app1"))
        self.assertEqual(self.proxy.counters.reroutes, 1)
        self.assertEqual(self.backends[0].requests[0].body, b"hello")

    @in_thread
    def test_a_client_that_goes_away_ends_its_request(self):
        ended = threading.Event()

        def script(wire):
            wire.request()
            try:
                wire.more()
            except ConnectionResetError:
                ended.set()

        self.backend(script)
        self.serve()
        for request in (GET, POST % 5 + b"hello"):
            client = self.client()
            client.send(request)
            eventually(lambda: self.proxy.open_backends, "the request")
            client.reset()
            self.assertTrue(ended.wait(WAIT))
            ended.clear()
        self.terminations({"CH"})
        self.assertEqual(self.proxy.counters.requests_aborted, 2)

    @in_thread
    def test_refused(self):
        app = self.backend()
        self.serve(
            sites=[{"hosts": ["a"], "pool": "app", "max_body": 10}], timeouts={"response": 0.2}
        )
        for status, request in (
            (404, b"GET / HTTP/1.1\r\nHost: b\r\n\r\n"),
            (413, POST % 11 + b"hello world"),
            (
                413,
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                + chunked(b"hello world", 11),
            ),
            (400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
            (400, b"GET / HTTP/1.1\r\n\r\n"),
            (400, b"GET nowhere HTTP/1.1\r\nHost: a\r\n\r\n"),
            (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\nGET"),
            (400, b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            (405, b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"),
            (417, b"GET / HTTP/1.1\r\nHost: a\r\nExpect: wonders\r\n\r\n"),
        ):
            response = self.ask(request)
            self.assertEqual(response.status, status, request)
            self.assertIn(b"<h1>%d" % status, response.body)
            self.assertEqual(response.get(b"Content-Length"), b"%d" % len(response.body))
            self.assertEqual(response.get(b"Cache-Control"), b"no-store")
        self.assertEqual(app.connections, [])
        self.assertEqual(self.proxy.counters.requests_refused, 10)
        self.terminations({"PR"})

    @in_thread
    def test_backends_that_fail(self):
        app = self.backend()
        self.serve(timeouts={"response": 0.2})
        app.says(b"")
        self.assertEqual(self.status(POST % 1 + b"x"), 502)
        app.says(b"HTP/1.1 200 OK\r\n\r\n")
        self.assertEqual(self.status(GET), 502)
        app.script = lambda wire: (app.take(wire), wire.more())
        self.assertEqual(self.status(GET), 504)
        app.stop()
        self.assertEqual(self.status(GET), 503)
        self.terminations({"SH", "PH", "sH", "SC"})

    @in_thread
    def test_a_connection_is_kept_and_may_be_pipelined(self):
        for _ in range(2):
            self.backend()
        self.serve()
        client = self.client()
        names = []
        for _ in range(2):
            client.send(GET)
            names.append(client.response().body)
        client.send(GET * 4 + POST % 2 + b"hi" + GET)
        names += [client.response().body for _ in range(6)]
        self.assertEqual(names, [b"app1", b"app2"] * 4)
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        self.assertEqual(client.response().get(b"Connection"), b"close")
        self.assertEqual(client.end(), "eof")

    @in_thread
    def test_responses_without_a_body(self):
        app = self.backend()
        self.serve()
        client = self.client()
        for data, method in (
            (b"HTTP/1.1 204 Gone Fishing\r\nContent-Length: 4\r\n\r\n", "GET"),
            (b"HTTP/1.1 304 Same\r\nContent-Length: 4\r\nETag: x\r\n\r\n", "GET"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", "HEAD"),
            (b"HTTP/1.1 200 OK\r\n\r\n", "HEAD"),
        ):
            app.says(data)
            client.send(b"%b / HTTP/1.1\r\nHost: a\r\n\r\n" % method.encode())
            response = client.response(method)
            self.assertEqual(b"HTTP/1.1 " + response.line.partition(b" ")[2], response.line)
            self.assertTrue(data.startswith(response.line))
            self.assertEqual(response.all(b"Transfer-Encoding"), [])
            self.assertEqual(
                response.get(b"Content-Length"),
                b"4" if b"4" in data and b"204" not in data and b"Length" in data else None,
            )
        self.assertEqual(client.unread, b"")

    @in_thread
    def test_fields_of_the_response(self):
        app = self.backend()
        self.serve()
        app.says(
            b"HTTP/1.1 200 OK\r\nServer: theirs\r\nX-Hop: 1\r\nConnection: X-Hop\r\n"
            b"Set-Cookie: a=1\r\nSet-Cookie: b=2; Path=/\r\nX-Many: 1\r\nX-Many: \xe4\r\n"
            b"Content-Length: 2\r\n\r\nhi"
        )
        response = self.ask()
        self.assertEqual(response.get(b"Server"), b"theirs")
        self.assertEqual(response.all(b"Set-Cookie"), [b"a=1", b"b=2; Path=/"])
        self.assertEqual(response.all(b"X-Many"), [b"1", b"\xe4"])
        self.assertIsNotNone(response.get(b"Date"))
        for name in (b"Content-Type", b"X-Hop", b"Connection", b"Transfer-Encoding"):
            self.assertEqual(response.all(name), [], name)
        app.says(reply(b"", 200, b"Date: then", b"Content-Type: text/x"))
        response = self.ask()
        self.assertEqual(response.get(b"Date"), b"then")
        self.assertEqual(response.get(b"Content-Type"), b"text/x")
        self.assertEqual(response.all(b"Server"), [])

    @in_thread
    def test_bodies_of_backends_in_every_framing(self):
        app = self.backend()
        self.serve()
        for data in (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"hello", 2),
            b"HTTP/1.1 200 OK\r\n\r\nhello",
            b"HTTP/1.0 200 OK\r\n\r\nhello",
        ):
            app.says(data)
            response = self.ask()
            self.assertEqual(response.get(b"Transfer-Encoding"), b"chunked")
            self.assertEqual(response.body, b"hello")
            old = self.ask(b"GET / HTTP/1.0\r\n\r\n")
            self.assertEqual(old.all(b"Transfer-Encoding"), [])
            self.assertEqual(old.body, b"hello")
        host = b"127.0.0.1:%d" % self.port
        self.assertEqual(app.requests[1].get(b"Host"), host)
        self.assertTrue(app.requests[1].line.endswith(b"HTTP/1.1"))

    @in_thread
    def test_a_body_that_breaks_off_is_shown_as_broken(self):
        app = self.backend()
        self.serve()
        for data in (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        ):
            app.says(data)
            client = self.client()
            client.send(GET)
            self.assertEqual(client.end(), "reset")
            self.assertNotIn(b"0\r\n\r\n", client.received)
        self.terminations({"SD"})

    @in_thread
    def test_no_interim_responses_and_no_upgrades(self):
        app = self.backend()
        self.serve(site={"upgrade": ["websocket"]})
        app.says(b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + reply(b"hi"))
        response = self.ask(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        self.assertEqual((response.status, response.body), (200, b"hi"))
        self.assertEqual(app.requests[0].all(b"Upgrade"), [])
        app.says(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        self.assertEqual(self.status(GET), 502)

    @in_thread
    def test_expect_is_twisteds_business(self):
        app = self.backend()
        self.serve()
        client = self.client()
        client.send(POST[:-2] % 5 + b"Expect: 100-continue\r\n\r\n")
        self.assertEqual(client.response().status, 100)
        client.send(b"hello")
        self.assertEqual(client.response().status, 200)
        self.assertEqual(app.requests[0].all(b"Expect"), [])


class SpooledTests(Carried, ResourceTest):
    """With Twisted's own requests, whose body is in a file."""

    @in_thread
    def test_a_body_of_50_mib(self):
        self.assertTrue(self.upload(50, 3 * PIECE))

    @in_thread
    def test_a_response_of_50_mib_to_a_slow_client(self):
        whole = os.urandom(MIB)
        sent = threading.Event()

        def script(wire):
            wire.request()
            wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (50 * MIB))
            for _ in range(50):
                wire.send(whole)
            sent.set()

        self.backend(script)
        self.serve()
        client = self.client(receive_buffer=65536)
        client.send(GET)
        eventually(lambda: any(f.socket.backlog for f in tuple(self.service.fronts)), "a pause")
        held = []
        for _ in range(20):
            held.append(self.buffered())
            time.sleep(0.01)
        self.assertFalse(sent.is_set())
        self.assertGreater(min(held), 0)
        # What Twisted takes before it pauses, and one read of ours.
        self.assertLessEqual(max(held), 64 * 1024 + 64 * 1024)
        client.head()
        found, left = hashlib.sha256(client.unread), 50 * MIB - len(client.unread)
        while left:
            data = client.sock.recv(MIB)
            found.update(data)
            left -= len(data)
            held.append(self.buffered())
        self.assertEqual(found.digest(), hashlib.sha256(whole * 50).digest())
        self.assertLessEqual(max(held), 64 * 1024 + 64 * 1024)

    @in_thread
    def test_a_client_that_takes_nothing_is_cut(self):
        self.backend(lambda wire: (wire.request(), wire.send(reply(bytes(20 * MIB)))))
        self.serve(timeouts={"write": 0.2})
        client = self.client(receive_buffer=4096)
        client.send(GET)
        self.terminations({"cD"})
        self.assertEqual(client.end(), "reset")

    @in_thread
    def test_a_large_chunked_body_goes_on_with_its_length(self):
        app = self.backend()
        self.serve(site={"request_buffer": 0})
        body = os.urandom(3 * PIECE + 7)
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.assertEqual(self.ask(head + chunked(body, 10_000)).body, b"app1")
        self.assertEqual(app.requests[0].get(b"Content-Length"), b"%d" % len(body))
        self.assertEqual(app.requests[0].body, body)

    def answered_while_paused(self):
        """A client whose response is complete, and held by Twisted; and its front."""
        app = self.backend()
        go = threading.Event()
        app.script = lambda wire: (app.take(wire), go.wait(WAIT), wire.send(reply(b"late")))
        self.serve(timeouts={"write": 0.2})
        client = self.client()
        client.send(GET)
        eventually(lambda: app.requests, "the request")
        front = next(iter(self.service.fronts))
        # As Twisted does when the response before this one hasn't been taken.
        self.on_reactor(front.pauseProducing)
        go.set()
        self.terminations({"--"})
        self.assertEqual(self.service.fronts, {front})
        app.script = app.answer
        return client, front

    @in_thread
    def test_a_client_that_does_not_take_the_end_is_cut(self):
        client, _ = self.answered_while_paused()
        client.send(GET)
        self.assertEqual(client.end(), "reset")
        self.assertEqual(len(self.records), 1)

    @in_thread
    def test_the_next_request_waits_until_the_end_is_taken(self):
        client, front = self.answered_while_paused()
        client.send(GET)
        self.on_reactor(front.resumeProducing)
        self.assertEqual([client.response().body for _ in range(2)], [b"late", b"app1"])

    @in_thread
    def test_an_early_response_leaves_the_connection(self):
        def script(wire):
            wire.head()
            wire.send(reply(b"enough"))
            while wire.more(MIB):
                pass

        self.backend(script)
        self.serve()
        client = self.client()
        for _ in range(2):
            client.send(POST % (4 * MIB) + bytes(4 * MIB))
            self.assertEqual(client.response().body, b"enough")

    @in_thread
    def test_a_client_comes_back_by_its_cookie(self):
        for _ in range(3):
            self.backend()
        self.serve(site={"schedule": "cookie"})
        first = self.ask()
        cookie = first.get(b"Set-Cookie")
        self.assertRegex(cookie, rb"^DLBA=k1\.[^;]+; Path=/; HttpOnly; SameSite=Lax$")
        pair = cookie.partition(b";")[0]
        for _ in range(4):
            answer = self.ask(
                b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=1; " + pair + b"; b=2\r\n\r\n"
            )
            self.assertEqual(answer.body, first.body)
            self.assertEqual(answer.all(b"Set-Cookie"), [])
        app = next(b for b in self.backends if b.name.encode() == first.body)
        self.assertEqual(app.requests[-1].get(b"Cookie"), b"a=1; b=2")
        self.assertEqual(self.record(4).reason, "cookie")

    @in_thread
    def test_what_others_put_into_the_response_stays(self):
        app = self.backend()

        class Around(Resource):
            isLeaf = True

            def render(self, request):
                request.addCookie(b"theirs", b"1")
                request.setHeader(b"X-Frame-Options", b"DENY")
                return self.inner.render(request)

        def around(inner):
            root = Around()
            root.inner = inner
            return root

        self.serve(around=around)
        app.says(reply(b"", 200, b"Set-Cookie: ours=2"))
        response = self.ask()
        self.assertEqual(response.all(b"Set-Cookie"), [b"theirs=1", b"ours=2"])
        self.assertEqual(response.get(b"X-Frame-Options"), b"DENY")

    def below(self, inner):
        root = Resource()
        root.putChild(b"shop", inner)
        return root

    @in_thread
    def test_below_a_path_backends_see_all_of_it(self):
        app = self.backend()
        self.serve(around=self.below)
        self.assertEqual(self.status(b"GET /shop/a%2Fb?c HTTP/1.1\r\nHost: a\r\n\r\n"), 200)
        self.assertEqual(app.requests[0].line, b"GET /shop/a%2Fb?c HTTP/1.1")
        self.assertEqual(self.status(b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n"), 404)

    @in_thread
    def test_below_a_path_without_it(self):
        app = self.backend()
        self.serve(around=self.below, strip_prefix=True)
        for sent, seen in (
            (b"/shop/a%2Fb?c", b"/a%2Fb?c"),
            (b"/shop/", b"/"),
            (b"/shop", b"/"),
            (b"/shop?a/b", b"/?a/b"),
        ):
            self.ask(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % sent)
            self.assertEqual(app.requests[-1].line, b"GET %b HTTP/1.1" % seen)

    @in_thread
    def test_at_the_root_there_is_nothing_to_strip(self):
        app = self.backend()
        self.serve(strip_prefix=True)
        self.ask(b"GET http://b/a HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertEqual(app.requests[0].line, b"GET /a HTTP/1.1")
        self.assertEqual(app.requests[0].get(b"Host"), b"b")

    @in_thread
    def test_the_log(self):
        self.backend()
        self.serve()
        self.ask(POST % 5 + b"hello")
        record = self.record()
        self.assertEqual(record.request, b"POST / HTTP/1.1")
        self.assertEqual((record.status, record.backend, record.termination), (200, "app1", "--"))
        self.assertEqual((record.client, record.body), ("127.0.0.1", 4))

    @in_thread
    def test_an_exception_of_ours_ends_one_request_alone(self):
        app = self.backend()
        self.serve()
        gate = threading.Event()
        app.script = lambda wire: (app.take(wire), gate.wait(WAIT), wire.send(reply(b"x")))
        bad, good = self.client(), self.client()
        bad.send(GET)
        eventually(lambda: len(self.service.fronts) == 1, "the first")
        front = next(iter(self.service.fronts))
        good.send(GET)
        eventually(lambda: len(app.requests) == 2, "both")

        def broken(*args):
            raise RuntimeError("ours")

        front.respond = broken
        gate.set()
        self.assertEqual(good.response().body, b"x")
        eventually(lambda: front.socket.ended, "the end")
        self.expected_internal_errors = 1
        self.on_reactor(lambda: self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1))

    @in_thread
    def test_an_exception_at_the_beginning_ends_one_request_alone(self):
        self.backend()
        self.serve()
        sites, self.proxy.sites = self.proxy.sites, None
        client = self.client()
        client.send(GET)
        self.assertEqual(client.end(), "reset")
        self.proxy.sites = sites
        self.assertEqual(self.status(GET), 200)
        self.expected_internal_errors = 1
        self.on_reactor(lambda: self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1))

    @in_thread
    def test_an_exception_at_a_deadline_ends_one_request_alone(self):
        self.backend(lambda wire: (wire.request(), wire.more()))
        self.serve(timeouts={"response": 0.2})
        client = self.client()
        client.send(GET)
        eventually(lambda: self.proxy.open_backends, "the request")
        front = next(iter(self.service.fronts))
        front.failed = None
        self.assertEqual(client.end(), "reset")
        self.expected_internal_errors = 1
        self.on_reactor(lambda: self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1))

    @in_thread
    def test_tls(self):
        app = self.backend()
        self.serve(tls=True)
        client = self.client(client_context(), name="a")
        client.send(GET)
        self.assertEqual(client.response().body, b"app1")
        self.assertEqual(app.requests[0].get(b"X-Forwarded-Proto"), b"https")
        app.script = lambda wire: (wire.request(), wire.send(reply(bytes(4 * MIB))))
        client.send(GET + GET)
        eventually(lambda: any(f.socket.backlog for f in tuple(self.service.fronts)), "a pause")
        self.assertTrue(next(iter(self.service.fronts)).socket._is_taking())
        for _ in range(2):
            self.assertEqual(len(client.response().body), 4 * MIB)
        app.says(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        client.send(GET)
        self.assertIn(client.end(), ("reset", "ragged"))

    @in_thread
    def test_a_trusted_proxy_in_front(self):
        app = self.backend()
        self.serve()
        web = web_config(
            {
                "pools": {"app": {"backends": {"app1": {"address": f"127.0.0.1:{app.port}"}}}},
                "trusted_proxies": ["127.0.0.0/8"],
            }
        )
        self.on_reactor(self.resource.configure, web)
        self.ask(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 8.8.8.8\r\n\r\n")
        self.assertEqual(app.requests[0].get(b"X-Forwarded-For"), b"8.8.8.8, 127.0.0.1")
        self.assertEqual(self.record().client, "8.8.8.8")

    @in_thread
    def test_a_stop_waits_for_the_requests_under_way(self):
        app = self.backend()
        self.serve()
        go = threading.Event()
        app.script = lambda wire: (app.take(wire), go.wait(WAIT), wire.send(reply(b"late")))
        client, other = self.client(), self.client()
        client.send(GET)
        eventually(lambda: app.requests, "the request")
        done = self.stop()
        other.send(GET)
        refused = other.response()
        self.assertEqual((refused.status, refused.get(b"Connection")), (503, b"close"))
        self.assertEqual(done, [])
        go.set()
        self.assertEqual(client.response().body, b"late")
        eventually(lambda: done, "the stop")
        self.assertNotIn("doIteration", vars(reactor))
        self.assertRaises(RuntimeError, self.service.startService)

    @in_thread
    def test_a_stop_ends_at_its_time(self):
        self.backend(lambda wire: (wire.request(), wire.more()))
        self.serve(timeouts={"stop": 0.2})
        client = self.client()
        client.send(GET)
        eventually(lambda: self.proxy.open_backends, "the request")
        done = self.stop()
        self.assertEqual(client.end(), "reset")
        eventually(lambda: done, "the stop")
        self.terminations({"CH"})


class LiveTests(Carried, ResourceTest):
    """With `ProxyRequest`: bodies come as they are sent."""

    requests = ProxyRequest

    @in_thread
    def test_a_body_of_50_mib_is_sent_as_the_backend_takes_it(self):
        self.assertFalse(self.upload(50, BUFFER + 4 * PIECE))

    @in_thread
    def test_over_tls(self):
        self.upload(20, BUFFER + 4 * PIECE, tls=True)

    @in_thread
    def test_a_body_is_at_the_backend_before_it_ends(self):
        heard = threading.Event()

        def script(wire):
            wire.head()
            wire.until(b"begin")
            heard.set()
            wire.until(b"end\r\n0\r\n\r\n")
            wire.send(reply(b"ok"))

        self.backend(script)
        self.serve(site={"request_buffer": 0})
        client = self.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(b"5\r\nbegin\r\n")
        self.assertTrue(heard.wait(WAIT))
        client.send(b"3\r\nend\r\n0\r\n\r\n")
        self.assertEqual(client.response().body, b"ok")
        self.backends[0].script = self.backends[0].answer
        client.send(GET)
        self.assertEqual(client.response().body, b"app1")

    @in_thread
    def test_an_early_response_is_relayed_at_once_then_the_connection_ends(self):
        self.backend(lambda wire: (wire.head(), wire.send(reply(b"enough"))))
        self.serve(site={"request_buffer": 0})
        self.patch(sitefront, "LINGER_SECONDS", 0.3)
        for rest, end in ((bytes(90), "eof"), (b"", "reset")):
            client = self.client()
            client.send(POST % 100 + bytes(10))
            response = client.response()
            self.assertEqual((response.body, response.get(b"Connection")), (b"enough", b"close"))
            if rest:
                client.send(rest)
            self.assertEqual(client.end(), end)

    @in_thread
    def test_a_body_found_too_large_behind_an_early_response_is_cut_short(self):
        seen = []
        go = threading.Event()

        def script(wire):
            wire.head()
            wire.until(b"begin\r\n")
            wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
            go.wait(WAIT)
            wire.send(b"llo")
            try:
                wire.more()
            finally:
                seen.append(wire.unread)

        self.backend(script)
        self.serve(site={"request_buffer": 0, "max_body": 10})
        client = self.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(b"5\r\nbegin\r\n")
        client.until(b"he")
        client.send(b"6\r\nlarge!\r\n0\r\n\r\n")
        eventually(lambda: next(iter(self.service.fronts)).complete, "the end of the body")
        go.set()
        client.until(b"llo")
        self.assertEqual(client.end(), "eof")
        eventually(lambda: seen, "the backend's end")
        self.assertEqual(seen, [b""])

    @in_thread
    def test_a_body_that_does_not_come(self):
        app = self.backend()
        self.serve(timeouts={"body": 0.2})
        client = self.client()
        client.send(POST % 100 + b"begun")
        self.assertEqual(client.response().status, 408)
        self.assertEqual(app.connections, [])
        self.on_reactor(self.resource.configure, self.web(request_buffer=0, body=0.2))
        client = self.client()
        client.send(POST % 100 + b"begun")
        self.assertEqual(client.response().status, 408)
        self.terminations({"cR"})

    def web(self, body=30.0, **site):
        backends = {b.name: {"address": f"127.0.0.1:{b.port}"} for b in self.backends}
        return web_config(
            {
                "timeouts": {"body": body},
                "sites": [{"hosts": ["*"], "default": True, "pool": "app", **site}],
                "pools": {"app": {"backends": backends}},
            }
        )

    @in_thread
    def test_a_body_that_drips(self):
        self.backend()
        self.serve(timeouts={"body": 0.3})
        client = self.client()
        client.send(POST % 1000)
        for _ in range(100):
            if self.records:
                break
            client.send(b"x")
            time.sleep(0.05)
        else:
            self.fail("dripped on for 5 s")
        self.assertEqual(client.response().status, 408)

    @in_thread
    def test_too_large_is_refused_before_it_comes(self):
        self.backend()
        self.serve(site={"max_body": 10})
        client = self.client()
        client.send(POST[:-2] % 100 + b"Expect: 100-continue\r\n\r\n")
        response = client.response()
        self.assertEqual((response.status, response.get(b"Connection")), (413, b"close"))
        client.send(bytes(100))
        self.assertEqual(client.end(), "eof")

    @in_thread
    def test_a_client_that_leaves_in_the_midst_of_its_body(self):
        app = self.backend()
        self.serve()
        client = self.client()
        client.send(POST % 100 + b"begun")
        eventually(lambda: self.proxy.memory.used == 5, "the beginning")
        client.reset()
        self.terminations({"CR"})
        self.assertEqual(app.connections, [])

    @in_thread
    def test_a_stop_cuts_a_body_that_does_not_come(self):
        self.backend()
        self.serve(timeouts={"stop": 0.1})
        client = self.client()
        client.send(POST % 100 + b"begun")
        eventually(lambda: self.proxy.memory.used == 5, "the beginning")
        done = self.stop()
        self.assertEqual(client.end(), "reset")
        eventually(lambda: done, "the stop")
        self.assertEqual(self.proxy.memory.used, 0)

    @in_thread
    def test_other_resources_get_their_bodies_as_ever(self):
        self.backend()

        class Echo(Resource):
            def render_POST(self, request):
                return request.content.read() + request.args[b"a"][0]

        def around(inner):
            root = Resource()
            root.putChild(b"echo", Echo())
            root.putChild(b"shop", inner)
            return root

        self.serve(around=around)
        form = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 3\r\n\r\na=b"
        client = self.client()
        client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\n" + form)
        self.assertEqual(client.response().body, b"a=bb")
        client.send(b"POST /shop/x HTTP/1.1\r\nHost: a\r\n" + form)
        self.assertEqual(client.response().body, b"app1")
        self.assertEqual(self.backends[0].requests[0].line, b"POST /shop/x HTTP/1.1")

    @in_thread
    def test_a_stopped_service_refuses_bodies_too(self):
        self.backend()
        self.serve()
        done = self.stop()
        self.assertEqual(self.status(POST % 5 + b"hello"), 503)
        eventually(lambda: done, "the stop")


class HeadTests(SynchronousTestCase):
    """A head that Twisted has read, written out again."""

    def request(self, version, *fields, method=b"GET"):
        request = Request.__new__(Request)
        request.method, request.clientproto = method, version
        request.requestHeaders = Headers()
        for name, value in fields:
            # As twisted.web does for HTTP/2: a list that isn't looked at again.
            values = request.requestHeaders.getRawHeaders(name)
            if values is None:
                request.requestHeaders.setRawHeaders(name, [value])
            else:
                values.append(value)
        return request

    def test_http2(self):
        request = self.request(
            b"HTTP/2", (b"host", b"a"), (b"cookie", b"a=1"), (b"x", b"1"), (b"cookie", b"b=2")
        )
        head = head_bytes(request, b"/x", 1000)
        self.assertEqual(head, b"GET /x HTTP/1.1\r\nHost: a\r\nCookie: a=1; b=2\r\nX: 1")
        self.assertEqual(parse_request(head, HeadLimits(100, 100)).host, b"a")

    def test_http1_keeps_lines_apart(self):
        request = self.request(b"HTTP/1.0", (b"cookie", b"a=1"), (b"cookie", b"b=2"))
        head = head_bytes(request, b"/x", 1000)
        self.assertEqual(head, b"GET /x HTTP/1.0\r\nCookie: a=1\r\nCookie: b=2")

    def test_a_part_that_is_more_than_one_line(self):
        for request, target in (
            (self.request(b"HTTP/2", (b"x", b"1"), (b"x", b"1\r\nY: 2")), b"/"),
            (self.request(b"HTTP/2", (b"x", b"1")), b"/ HTTP/1.1\r\nY: 2"),
            (self.request(b"HTTP/2", method=b"GET / HTTP/1.1\r\nY: 2\r\nPUT"), b"/"),
        ):
            error = self.assertRaises(HeadError, head_bytes, request, target, 1000)
            self.assertEqual(error.status, 400)

    def test_too_long(self):
        request = self.request(b"HTTP/1.1", (b"x", bytes(100)))
        error = self.assertRaises(HeadError, head_bytes, request, b"/", 100)
        self.assertEqual(error.status, 431)


class ConfigurationTests(SynchronousTestCase):
    """What a resource is told to do."""

    def test_one_pool_alone_is_enough(self):
        web = web_config({"pools": POOL})
        self.assertEqual([(s.hosts, s.default, s.pool) for s in web.sites], [(("*",), True, "app")])

    def test_the_same_as_in_a_file(self):
        text = {"listen": [{"port": 0}], "sites": [{"hosts": ["x"], "pool": "app"}]}
        text["pools"] = POOL
        whole = json.dumps({"node": "a", "array": {"web": text}})
        self.assertEqual(web_config(text), load_text(whole, Path()).array.web)

    def test_mistakes(self):
        error = self.assertRaises(ConfigError, web_config, {"pools": {"app": {"backend": {}}}})
        self.assertIn("array.web.pools.app", str(error))
        self.assertRaises(ConfigError, web_config, {"pools": POOL | {"b": POOL["app"]}})

    def test_without_keys_each_has_its_own(self):
        web = web_config({"pools": POOL})
        resources = [ProxyResource(None, web, keys=keys) for keys in ((), (), KEYS, KEYS)]
        rows = [row for resource in resources for row in resource.proxy.backends()]
        self.assertEqual([row.name for row in rows], ["a"] * 4)
        self.assertEqual(len({row.token for row in rows}), 3)
        for resource in resources:
            self.assertTrue(verifyObject(IResource, resource))
            resource.proxy.poller._epoll.close()


class ExampleTests(ProxyTest):
    """The example of docs/resource.md."""

    @in_thread
    def test_it_runs(self):
        app = self.backend()
        text = (ROOT / "docs/resource.md").read_text("utf-8")
        code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
        listen = re.search(r"^reactor\.listenTCP\(8080, (.*)\)$", code, re.MULTILINE)
        for old, new in (
            ("10.0.1.1:8080", f"127.0.0.1:{app.port}"),
            (listen[0], f"print(reactor.listenTCP(0, {listen[1]}).getHost().port, flush=True)"),
        ):
            self.assertEqual(code.count(old), 1)
            code = code.replace(old, new)
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)

        port = int(process.stdout.readline())

        def get(path):
            client = self.client(port=port)
            client.send(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path)
            return client.response()

        about = get(b"/about")
        self.assertEqual(about.status, 200)
        shop = get(b"/shop/")
        self.assertEqual(shop.body, b"app1")
        self.assertIsNotNone(shop.get(b"Set-Cookie"))
        self.assertEqual(app.requests[0].line, b"GET /shop/ HTTP/1.1")
