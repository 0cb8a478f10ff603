"""web.md rule 5: which site takes a request, and which of its backends.

Shown elsewhere:
- forged and unknown tokens count as none, the first valid one of all wins, a failed backend's token
  counts as none: tests.web.test_exchange `test_forged_and_unknown_cookies_count_as_none`,
  `test_cookie_of_a_dead_backend`
- least open connections: tests.web.test_exchange `test_least_connections`; by weight:
  tests.web.test_pool `LeastTests`
- the draw itself, against an oracle: tests.web.test_ring
- paths and hosts that compare on a copy: test_rule_03_head `test_hosts_and_paths_compare_on_a_copy`
"""

from collections import Counter
from typing import Any

from dlba.config.keys import SecretKey
from tests.web.harness import KEYS, certificate, closed_port, in_thread, reply
from tests.web.rules.table import OK, Recorder, Row, RuleTest, head, request

GET = b"GET / HTTP/1.1"
HOST = b"Host: a"


def asking(*fields: bytes, host: bytes = b"a", target: bytes = b"/") -> bytes:
    """A GET."""
    return head(b"GET " + target + b" HTTP/1.1", b"Host: " + host, *fields)


class ChoiceTest(RuleTest):
    """Backends that say their names."""

    def named(self, *names: str) -> dict[str, Recorder]:
        """Backends of these names."""
        return {
            name: self.recorder(reply(name.encode(), 200, b"Date: then"), name) for name in names
        }

    def addresses(self, backends: dict[str, Any], **more: dict[str, Any]) -> dict[str, Any]:
        """The pool's backends for the configuration."""
        return {
            name: {"address": f"127.0.0.1:{getattr(backend, 'port', backend)}"} | more.get(name, {})
            for name, backend in backends.items()
        }

    def again(self, *backends: Any, **options: Any) -> None:
        """Another node, or this one started anew."""
        if self.proxy is not None:
            self.on_reactor(self.service.stopService)
        self.serve(*backends, **options)

    def who(self, sent: bytes) -> bytes:
        """The name of the backend that answers `sent`."""
        answer = self.ask(sent)
        self.assertEqual(answer.status, 200)
        return answer.body

    def token(self, sent: bytes) -> tuple[bytes, bytes]:
        """The backend that answers `sent`, and the pair of the cookie that names it."""
        answer = self.ask(sent)
        return answer.body, answer.all(b"Set-Cookie")[0].partition(b";")[0]


#: HOST/PATH → the pool of `Sites.SITES` that serves it.
MATCHES = {
    b"a/x/": "one",
    b"a/x": "two",
    b"A.:80/x/y?z": "one",
    b"c.b/x/": "two",
    b"d.c.b/": "two",
    b"b/x/": "three",
    b"c/x/": "three",
}


class Sites(ChoiceTest):
    """First match; the default site for the rest, else 404."""

    SITES = (
        {"hosts": ["a"], "paths": ["/x/"], "pool": "one", "schedule": "url"},
        {"hosts": ["a", "*.b"], "pool": "two", "schedule": "url"},
        {"hosts": ["*"], "paths": ["/x/", "/probe"], "pool": "three", "schedule": "url"},
    )

    def rows(self, expected: dict[bytes, str]) -> None:
        """HOST/PATH → the pool, or 404."""
        backends = {name: self.recorder(name=name) for name in ("one", "two", "three")}
        pools = {
            name: {"backends": {name: {"address": f"127.0.0.1:{backend.port}"}}}
            for name, backend in backends.items()
        }
        default = {"hosts": ["d"], "default": True, "pool": "one", "schedule": "url"}
        last = [] if "404" in expected.values() else [default]
        self.serve(pools=pools, sites=[*self.SITES, *last])
        for where, name in expected.items():
            host, slash, path = where.partition(b"/")
            sent = asking(host=host, target=slash + path)
            line = b"GET " + slash + path + b" HTTP/1.1"
            seen = request(line, b"Host: " + host, host=host)
            if name == "404":
                row = Row(f"{where!r}", sent, "404 Not Found", None, "kept")
                self.check([row], backends["three"])
            else:
                self.check([Row(f"{where!r}", sent, OK, seen, "kept")], backends[name])
        self.done()

    @in_thread
    def test_first_match_then_404(self):
        self.rows(MATCHES | {b"b/": "404", b"d/": "404", b"a.a/": "404", b"cb/": "404"})

    @in_thread
    def test_the_default_takes_the_rest(self):
        self.rows(MATCHES | {b"b/": "one", b"d/": "one", b"a.a/": "one", b"[::1]/": "one"})

    @in_thread
    def test_1_0_without_host_takes_the_default_though_another_matches(self):
        backend = self.recorder()
        default, other = self.recorder(name="default"), backend
        pools = {
            name: {"backends": {name: {"address": f"127.0.0.1:{port}"}}}
            for name, port in (("other", other.port), ("default", default.port))
        }
        self.serve(
            pools=pools,
            sites=[
                {"hosts": ["*"], "pool": "other", "schedule": "url"},
                {"hosts": ["d"], "default": True, "pool": "default", "schedule": "url"},
            ],
        )
        self.assertEqual(self.ask(head(b"GET / HTTP/1.0")).status, 200)
        own = b"Host: 127.0.0.1:%d" % self.port
        lines = (GET, b"X-Forwarded-For: 127.0.0.1", b"X-Forwarded-Proto: http", own)
        self.assertEqual(default.saw(), [head(*lines, b"Connection: close")])
        self.assertEqual(other.saw(), [])


class Cookie(ChoiceTest):
    """`schedule: cookie`."""

    @in_thread
    def test_the_first_valid_token_of_all_cookie_lines_wins(self):
        backends = self.named("one", "two", "three")
        self.serve(site={"schedule": "cookie"})
        tokens = dict(self.token(asking()) for _ in range(3))
        self.assertEqual(len(tokens), 3)
        one, two = tokens[b"one"], tokens[b"two"]
        for fields, kept in (
            ((b"Cookie: " + one + b"; " + two,), ()),
            (
                (b"Cookie: x=1; DLBA=forged", b"Cookie: " + one, b"Cookie: " + two),
                (b"Cookie: x=1",),
            ),
            (
                (b"cookie:\t" + one + b";y=2", b"Cookie: " + two + b"; z"),
                (b"cookie:\ty=2", b"Cookie: z"),
            ),
            ((b"Cookie: DLBA=; DLBA; " + one + b"x; " + one,), ()),
        ):
            for _ in range(3):
                with self.row(fields):
                    answer = self.ask(asking(*fields))
                    self.assertEqual((answer.body, answer.all(b"Set-Cookie")), (b"one", []))
                    self.assertEqual(backends["one"].saw()[-1], request(GET, HOST, *kept))
        self.done()

    @in_thread
    def test_a_token_wins_over_a_drain_but_not_over_disabled(self):
        backends = self.named("one", "two")
        self.serve(site={"schedule": "cookie"})
        tokens = dict(self.token(asking()) for _ in range(2))
        for change, expected, given in (
            ({"weight": 0}, b"one", 0),
            ({"enabled": False}, b"two", 1),
        ):
            with self.row(change):
                pools = {"app": {"backends": self.addresses(backends, one=change)}}
                self.again(pools=pools, site={"schedule": "cookie"})
                for _ in range(4):
                    answer = self.ask(asking(b"Cookie: " + tokens[b"one"]))
                    self.assertEqual(answer.body, expected)
                    # A drained backend's cookie isn't renewed.
                    self.assertEqual(len(answer.all(b"Set-Cookie")), given)
                    self.assertEqual(self.who(asking()), b"two")
        self.done()

    @in_thread
    def test_a_token_of_another_pool_or_of_a_backend_that_is_gone_counts_as_none(self):
        backends = self.named("one", "two")
        self.serve(site={"schedule": "cookie"})
        tokens = dict(self.token(asking()) for _ in range(2))
        two = {"two": backends["two"]}
        for pools in (
            {"app": {"backends": self.addresses(two)}},
            {"other": {"backends": self.addresses(backends)}},
        ):
            site = {"hosts": ["*"], "pool": next(iter(pools)), "schedule": "cookie"}
            self.again(pools=pools, sites=[site])
            answer = self.ask(asking(b"Cookie: " + tokens[b"one"]))
            self.assertEqual(len(answer.all(b"Set-Cookie")), 1)
            self.assertNotIn(tokens[b"one"], answer.all(b"Set-Cookie")[0])

    @in_thread
    def test_a_session_id_without_token_is_hashed_and_no_cookie_is_invented(self):
        """The same on another node, and whatever the cookie secrets are."""
        backends = self.named("one", "two", "three")
        site = {"schedule": "cookie", "persistence": {"session_cookie": "SID"}}
        ids = [b"%d" % number for number in range(12)]
        self.serve(*backends.values(), site=site)
        chosen = {}
        for sid in ids:
            answer = self.ask(asking(b"Cookie: SID=" + sid))
            self.assertEqual(answer.all(b"Set-Cookie"), [])
            chosen[sid] = answer.body
        self.assertEqual(set(chosen.values()), {b"one", b"two", b"three"})
        self.again(*reversed(backends.values()), site=site, keys=(SecretKey("n", b"z" * 32),))
        for _ in range(2):
            self.assertEqual({s: self.who(asking(b"Cookie: x; SID=" + s)) for s in ids}, chosen)

    @in_thread
    def test_neither_takes_the_least_and_the_session_wins_over_it(self):
        self.named("one", "two")
        site = {"schedule": "cookie", "persistence": {"session_cookie": "SID"}}
        self.serve(site=site)
        # Ties go by turns.
        self.assertEqual(Counter(self.who(asking()) for _ in range(6)), {b"one": 3, b"two": 3})
        self.assertEqual(len({self.who(asking(b"Cookie: SID=1")) for _ in range(6)}), 1)
        self.assertEqual({self.record(n).reason for n in range(6)}, {"least"})


class Url(ChoiceTest):
    """`schedule: url`: host, path and query decide, and nothing else."""

    TARGETS = tuple(b"/%d?q=%d" % (number, number % 3) for number in range(40))

    def map(self) -> dict[bytes, bytes]:
        client = self.client()
        found = {}
        for target in self.TARGETS:
            client.send(asking(target=target))
            found[target] = client.response().body
        client.close()
        return found

    @in_thread
    def test_all_nodes_agree_and_secrets_move_nothing(self):
        backends = self.named("one", "two", "three")
        self.serve(*backends.values(), site={"schedule": "url"})
        first = self.map()
        self.assertEqual(set(first.values()), {b"one", b"two", b"three"})
        other = (SecretKey("new", b"n" * 32), *KEYS)
        self.again(*reversed(backends.values()), site={"schedule": "url"}, keys=other)
        self.assertEqual(self.map(), first)

    @in_thread
    def test_a_change_of_backends_moves_only_its_share(self):
        backends = self.named("one", "two", "three")
        self.serve(*backends.values(), site={"schedule": "url"})
        first = self.map()
        self.again(backends["one"], backends["two"], site={"schedule": "url"})
        second = self.map()
        moved = {target for target in first if first[target] != second[target]}
        self.assertEqual(moved, {target for target in first if first[target] == b"three"})

    @in_thread
    def test_a_failed_backend_moves_only_its_share(self):
        backends = self.named("one", "two")
        self.serve(*backends.values(), closed_port(), site={"schedule": "url"})
        first = self.map()
        dead = self.proxy.counters.backend_connect_failures
        self.assertEqual(dead, 1)
        self.again(backends["one"], backends["two"], site={"schedule": "url"})
        # b2 stands in the ranking though it is dead: without it the others keep their places.
        self.assertEqual(self.map(), first)

    @in_thread
    def test_the_name_counts_not_the_address_and_the_key_does(self):
        pool = {"backends": self.addresses(self.named("one", "two", "three"))}
        site = [{"hosts": ["*"], "pool": "app", "schedule": "url"}]
        self.serve(pools={"app": pool}, sites=site)
        first = self.map()
        addresses = list(pool["backends"].values())
        turned = dict(zip(pool["backends"], addresses[1:] + addresses[:1], strict=True))
        self.again(pools={"app": {"backends": turned}}, sites=site)
        names = {b"one": b"two", b"two": b"three", b"three": b"one"}
        self.assertEqual(self.map(), {target: names[name] for target, name in first.items()})
        self.again(pools={"app": pool | {"hash_key": "secret"}}, sites=site)
        self.assertNotEqual(self.map(), first)

    @in_thread
    def test_lower_case_host_without_port_path_and_query(self):
        self.named(*(f"app{number}" for number in range(1, 9)))
        self.serve(site={"schedule": "url"}, tls=[certificate("ecdsa", "a.example.com")])
        same = [
            asking(host=host, target=b"/p?q")
            for host in (b"shop.example", b"SHOP.example.", b"shop.Example:81", b"shop.example:")
        ]
        same.append(head(b"GET http://Shop.example:82/p?q HTTP/1.1", b"Host: b"))
        same.append(head(b"POST /p?q HTTP/1.1", b"Host: shop.example", b"Cookie: DLBA=x; SID=1"))
        self.assertEqual(len({self.who(sent) for sent in same}), 1)
        # A part of it that changes may move it: over many, it does.
        for vary in (
            [asking(host=b"h%d" % number) for number in range(20)],
            [asking(target=b"/%d" % number) for number in range(20)],
            [asking(target=b"/?%d" % number) for number in range(20)],
            [asking(target=b"/" + b"x" * number) for number in range(20)],
        ):
            self.assertGreater(len({self.who(sent) for sent in vary}), 2)


class NoState(ChoiceTest):
    """`connections`, `round-robin`, and backups."""

    @in_thread
    def test_round_robin_by_weight_without_cookies(self):
        backends = self.named("one", "two")
        pools = {"app": {"backends": self.addresses(backends, two={"weight": 3})}}
        for schedule in ("round-robin", "connections"):
            with self.row(schedule):
                self.again(pools=pools, site={"schedule": schedule})
                answers = [self.ask(asking(b"Cookie: DLBA=x")) for _ in range(8)]
                counted = Counter(answer.body for answer in answers)
                self.assertEqual(counted, {b"one": 2, b"two": 6})
                self.assertEqual([answer.all(b"Set-Cookie") for answer in answers], [[]] * 8)
        # A cookie of that name was given out by another site of the host: no backend sees it.
        self.assertEqual(set(backends["one"].saw()), {request(GET, HOST)})
        self.done()

    @in_thread
    def test_backups_only_when_no_other_is_left(self):
        """With every schedule; a drained and a disabled one aren't left, a token names a backup."""
        backends = self.named("app", "spare", "other")
        dead = closed_port()
        for schedule in ("cookie", "url", "connections", "round-robin"):
            for what, app, expected in (
                ("alive", {}, b"app"),
                ("dead", {"address": f"127.0.0.1:{dead}"}, b"spare"),
                ("disabled", {"enabled": False}, b"spare"),
                ("drained", {"weight": 0}, b"spare"),
            ):
                with self.row((schedule, what)):
                    pool = self.addresses(backends, app=app, spare={"backup": True})
                    del pool["other"]
                    self.again(pools={"app": {"backends": pool}}, site={"schedule": schedule})
                    targets = (b"/%d" % number for number in range(8))
                    self.assertEqual({self.who(asking(target=t)) for t in targets}, {expected})
        self.done()
