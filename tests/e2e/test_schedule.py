"""What chooses the backend, seen from outside."""

from __future__ import annotations

import collections

import pytest
import pytest_twisted
from clients import curls, rows
from parts import LOCAL, WAIT, wait_until
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.web.client import Agent, HTTPConnectionPool, readBody

# Agent's own transport lacks a method that readBody would like to have.
pytestmark = pytest.mark.filterwarnings("ignore:Using readBody")

ALL = {"hosts": ["*"], "default": True, "pool": "app"}


def test_urls_go_to_their_backends_over_one_client_connection(rig):
    backends = [rig.demo_backend(name) for name in ("one", "two", "three")]
    node = rig.node(backends, [{**ALL, "schedule": "url"}])
    paths = [f"/page/{number}" for number in range(40)]
    over = {}
    for base in (node.http, node.https):
        replies = curls([base + path for path in paths])
        assert [reply.info["num_connects"] for reply in replies] == [1] + [0] * 39
        assert not any(reply.cookies for reply in replies)
        over[base] = [reply.backend for reply in replies]
        assert set(over[base]) == {"one", "two", "three"}
    # Host decides without its port: the same URL has its place on both.
    assert over[node.http] == over[node.https]
    other = curls([node.http + path for path in paths], "-H", "Host: other.example.com")
    assert [reply.backend for reply in other] != over[node.http]
    queries = curls([f"{node.http}{paths[0]}?number={number}" for number in range(10)])
    assert len({reply.backend for reply in queries}) > 1


def test_a_dead_backend_moves_only_its_own_urls(rig):
    backends = {name: rig.demo_backend(name) for name in ("one", "two", "three")}
    node = rig.node(list(backends.values()), [{**ALL, "schedule": "url"}])
    urls = [f"{node.http}/page/{number}" for number in range(60)]
    before = [reply.backend for reply in curls(urls)]
    backends["two"].kill()
    after = [reply.backend for reply in curls(urls)]
    assert "two" not in after
    moved = [(b, a) for b, a in zip(before, after, strict=True) if b != a]
    assert {b for b, _ in moved} == {"two"}
    assert {a for _, a in moved} == {"one", "three"}


def test_round_robin_follows_the_weights(rig):
    light, heavy = rig.demo_backend("light"), rig.demo_backend("heavy")
    pools = {
        "app": {
            "backends": {
                "light": {"address": light.address},
                "heavy": {"address": heavy.address, "weight": 3},
            }
        }
    }
    node = rig.node([], [{**ALL, "schedule": "round-robin"}], pools=pools)
    replies = curls([f"{node.http}/{number}" for number in range(40)])
    assert collections.Counter(reply.backend for reply in replies) == {"light": 10, "heavy": 30}
    assert not any(reply.cookies for reply in replies)


def test_sites_are_told_apart_by_host_and_path(rig):
    pools = {name: [rig.demo_backend(name)] for name in ("shop", "static", "rest")}
    sites = [
        {"hosts": ["*"], "paths": ["/static/"], "pool": "static", "schedule": "url"},
        {"hosts": ["shop.example.com", "*.shop.example.com"], "pool": "shop"},
        {"hosts": ["rest.example.com"], "pool": "rest", "persistence": {"cookie": "REST"}},
    ]
    node = rig.node(pools, sites)
    for host, path, expected in [
        ("shop.example.com", "/", "shop"),
        ("SHOP.Example.com.", "/", "shop"),
        ("shop.example.com:8443", "/a", "shop"),
        ("www.shop.example.com", "/", "shop"),
        ("shop.example.com", "/static/a.css", "static"),
        ("nobody.example.com", "/%73tatic/a.css", "static"),
        ("nobody.example.com", "/x/../static/a.css", "static"),
        ("rest.example.com", "/staticx", "rest"),
        ("nobody.example.com", "/", None),
        ("ashop.example.com", "/", None),
    ]:
        (reply,) = curls([f"{node.https}{path}"], "--path-as-is", "-H", f"Host: {host}")
        assert reply.backend == expected, (host, path)
        assert reply.status == (200 if expected else 404), (host, path)


async def ask(port, target):
    """One GET on a connection of its own: the backend that answered."""
    pool = HTTPConnectionPool(reactor, persistent=False)
    pool.retryAutomatically = False
    url = f"http://{LOCAL}:{port}{target}".encode()
    response = await Agent(reactor, pool=pool, connectTimeout=WAIT).request(b"GET", url)
    body = await readBody(response)
    assert response.code == 200, body
    return response.headers.getRawHeaders(b"X-Backend")[0].decode()


def asked(port, target):
    """Such a request, under way."""
    return Deferred.fromCoroutine(ask(port, target)).addTimeout(WAIT, reactor)


@pytest_twisted.ensureDeferred
async def test_a_slow_backend_gets_nothing_more_while_it_is_slow(rig):
    backends = [rig.demo_backend(name) for name in ("one", "two", "three")]
    node = rig.node(backends, [{**ALL, "schedule": "connections"}])

    def busy():
        return [name for name, row in rows(node).items() if row["open_connections"]]

    slow = asked(node.port, "/slow/5")
    (name,) = await deferToThread(wait_until, "a busy backend", busy)
    replies = await deferToThread(curls, [f"{node.http}/{number}" for number in range(30)])
    assert not slow.called, "this machine is too slow to tell"
    assert {reply.backend for reply in replies} == {"one", "two", "three"} - {name}
    assert await slow == name
    assert await deferToThread(wait_until, "nobody busy", lambda: not busy())


@pytest_twisted.ensureDeferred
async def test_open_connections_are_spread_by_weight(rig):
    light, heavy = rig.demo_backend("light"), rig.demo_backend("heavy")
    pools = {
        "app": {
            "backends": {
                "light": {"address": light.address},
                "heavy": {"address": heavy.address, "weight": 2},
            }
        }
    }
    # New clients of a site with a cookie are spread in the same way.
    for schedule in ("connections", "cookie"):
        node = rig.node([], [{**ALL, "schedule": schedule}], pools=pools)
        answers = await gatherResults([asked(node.port, "/slow/3") for _ in range(9)])
        assert collections.Counter(answers) == {"light": 3, "heavy": 6}
