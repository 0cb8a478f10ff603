"""Tests of dlba.web.choice."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.addresses import Endpoint
from dlba.config.keys import SecretKey
from dlba.config.values import BackendConfig, PersistenceConfig, PoolConfig, SiteConfig
from dlba.web.choice import Site, Sites, choose, cookie_rule, normal_path
from dlba.web.head import HeadLimits, RequestHead, parse_request
from dlba.web.pool import Pool
from dlba.web.tokens import Tokens

KEY = SecretKey("k", b"0123456789abcdef0123456789abcdef")
LIMITS = HeadLimits(16 * 1024, 200)


def request(target="/", host="x", *lines: str, version="1.1") -> RequestHead:
    hosts = () if host is None else (f"Host: {host}",)
    head = "\r\n".join((f"GET {target} HTTP/{version}", *hosts, *lines))
    return parse_request(head.encode("latin-1"), LIMITS)


def pool_of(name="app", weights=(1, 1, 1), **backends) -> Pool:
    """Backends b0, b1, … with these weights, then those named with their settings."""
    address = Endpoint("192.0.2.1", 80)
    rows = [BackendConfig(name=f"b{n}", address=address, weight=w) for n, w in enumerate(weights)]
    rows += [BackendConfig(name=n, address=address, **s) for n, s in backends.items()]
    return Pool(PoolConfig(name=name, backends=tuple(rows)))


def site_of(hosts=("*",), pool: Pool | None = None, **options) -> Site:
    pool = pool or pool_of()
    tokens = Tokens((KEY,), [(pool.name, b.name) for b in pool.backends] + [("other", "b0")])
    return Site(SiteConfig(hosts=tuple(hosts), pool=pool.name, **options), pool, tokens, False)


class SiteTests(SynchronousTestCase):
    def named(self, sites: list[Site], asked: RequestHead) -> str | None:
        found = Sites(sites).site(asked)
        return None if found is None else found.name

    def test_hosts(self):
        sites = [site_of(["shop.example.com", "10.0.0.1", "[::1]"]), site_of(["*.example.com"])]
        for host, expected in (
            ("shop.example.com", "shop.example.com"),
            ("SHOP.Example.COM.:8080", "shop.example.com"),
            ("10.0.0.1:80", "shop.example.com"),
            ("[::1]:80", "shop.example.com"),
            ("a.example.com", "*.example.com"),
            ("a.b.example.com", "*.example.com"),
            ("x.shop.example.com", "*.example.com"),
            ("example.com", None),
            ("badexample.com", None),
            ("shop.example.com.evil", None),
            ("shop.example", None),
        ):
            self.assertEqual(self.named(sites, request(host=host)), expected, host)

    def test_the_first_match_wins(self):
        sites = [site_of(["a", "c"]), site_of(["*"]), site_of(["b"])]
        found = [self.named(sites, request(host=host)) for host in "abc"]
        self.assertEqual(found, ["a", "*", "a"])

    def test_paths(self):
        sites = [
            site_of(["x"], paths=("/static/", "/img")),
            site_of(["y"], paths=("/static/",)),
            site_of(["*"], paths=("/api/",)),
        ]
        for host, target, expected in (
            ("x", "/static/a", "x"),
            ("x", "/imgs", "x"),
            ("x", "/img?q", "x"),
            ("x", "/static", None),
            ("x", "/a/static/", None),
            ("x", "/STATIC/", None),
            ("x", "/?/static/", None),
            ("y", "/static/", "y"),
            ("y", "/img", None),
            ("x", "/api/", "*"),
            ("x", "/%73tatic/", "x"),
            ("x", "/a/../static/b", "x"),
            ("x", "/static/../api/", "*"),
            ("x", "/static/%2e%2E/api/", "*"),
            ("x", "/static/..", None),
            ("x", "/static%2Fa", None),
            ("x", "http://y/static/", "y"),
        ):
            self.assertEqual(self.named(sites, request(target, host)), expected, (host, target))

    def test_the_default_takes_the_rest(self):
        sites = [site_of(["a"], default=True, paths=("/a",)), site_of(["b"])]
        for host, target, expected in (("b", "/", "b"), ("c", "/", "a"), ("a", "/x", "a")):
            self.assertEqual(self.named(sites, request(target, host)), expected)
        self.assertIsNone(self.named(sites[1:], request(host="c")))
        self.assertIsNone(self.named([], request()))

    def test_http_1_0_without_host(self):
        without = request(host=None, version="1.0")
        for sites, expected in (
            ([site_of(["*"]), site_of(["a"], default=True)], "a"),
            ([site_of(["a"]), site_of(["*"])], "*"),
            ([site_of(["a"]), site_of(["*.a"])], None),
        ):
            self.assertEqual(self.named(sites, without), expected)

    def test_asterisk(self):
        asked = parse_request(b"OPTIONS * HTTP/1.1\r\nHost: x", LIMITS)
        self.assertEqual(self.named([site_of(["x"], paths=("/a",)), site_of(["*"])], asked), "*")


def naive_path(target: bytes) -> bytes:
    """RFC 3986 6.2.2.2 by characters, then 5.2.4 step by step as it stands there."""
    path = target.split(b"?")[0]
    unreserved = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
    given = b""
    while path:
        if (
            path[:1] == b"%"
            and len(path) > 2
            and all(c in b"0123456789abcdefABCDEF" for c in path[1:3])
        ):
            byte = bytes.fromhex(path[1:3].decode())
            given += byte if byte in unreserved else path[:3]
            path = path[3:]
        else:
            given += path[:1]
            path = path[1:]
    output = b""
    while given:
        if given.startswith(b"/./"):
            given = given[2:]
        elif given == b"/.":
            given = b"/"
        elif given.startswith(b"/../"):
            given = given[3:]
            output = output[: max(output.rfind(b"/"), 0)]
        elif given == b"/..":
            given = b"/"
            output = output[: max(output.rfind(b"/"), 0)]
        else:
            end = given.find(b"/", 1)
            end = len(given) if end < 0 else end
            output += given[:end]
            given = given[end:]
    return output


class PathTests(SynchronousTestCase):
    def test_table(self):
        for target, path in (
            ("/", "/"),
            ("/a/b/c/./../../g", "/a/g"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/..", "/"),
            ("/../../a", "/a"),
            ("/a//../b", "/a/b"),
            ("//a", "//a"),
            ("/a/...", "/a/..."),
            ("/.a", "/.a"),
            ("/a..", "/a.."),
            ("/%41%7e%2D", "/A~-"),
            ("/%2e%2e/a", "/a"),
            ("/a/%2E", "/a/"),
            ("/%2f%00%3F%25", "/%2f%00%3F%25"),
            ("/%252e%252e/a", "/%252e%252e/a"),
            ("/%2%65e", "/%2ee"),
            ("/%", "/%"),
            ("/%4", "/%4"),
            ("/%zz", "/%zz"),
            ("/a?/../b", "/a"),
            ("*", "*"),
        ):
            self.assertEqual(normal_path(target.encode()), path.encode(), target)

    @settings(deadline=None, max_examples=500)
    @given(
        st.lists(
            st.sampled_from(
                [
                    "/",
                    "/",
                    ".",
                    "..",
                    "a",
                    "%2e",
                    "%2E",
                    "%41",
                    "%2f",
                    "%25",
                    "%",
                    ";",
                    "?",
                    "A",
                    "~",
                ]
            )
        ).map("".join)
    )
    def test_the_rfc_agrees(self, text):
        target = b"/" + text.encode()
        self.assertEqual(normal_path(target), naive_path(target))


class RuleTests(SynchronousTestCase):
    def test_attributes(self):
        for options, all_tls, attributes in (
            ({}, False, "; Path=/; HttpOnly; SameSite=Lax"),
            ({}, True, "; Path=/; HttpOnly; SameSite=Lax; Secure"),
            ({"secure": False}, True, "; Path=/; HttpOnly; SameSite=Lax"),
            ({"secure": True}, False, "; Path=/; HttpOnly; SameSite=Lax; Secure"),
            (
                {"path": "/a", "domain": "x.org", "max_age": 60, "same_site": "Strict"},
                False,
                "; Path=/a; Domain=x.org; Max-Age=60; HttpOnly; SameSite=Strict",
            ),
        ):
            rule = cookie_rule(PersistenceConfig(**options), all_tls)
            self.assertEqual((rule.name, rule.session), (b"DLBA", None))
            self.assertEqual(rule.attributes, attributes.encode())

    def test_names(self):
        rule = cookie_rule(PersistenceConfig(cookie="R", session_cookie="SID"), False)
        self.assertEqual((rule.name, rule.session), (b"R", b"SID"))


class CookieChoiceTests(SynchronousTestCase):
    def setUp(self):
        self.pool = pool_of(
            weights=(1, 1, 1),
            drained={"weight": 0},
            off={"enabled": False},
            spare={"backup": True},
        )
        self.site = site_of(pool=self.pool, persistence=PersistenceConfig(session_cookie="SID"))
        self.rows = {row.name: row for row in self.pool.backends}

    def token(self, name: str, pool: str = "app") -> bytes:
        return self.site.tokens.token(pool, name)

    def choose(self, values=(), lines=(), now=0.0, tried=()):
        row, why = choose(self.site, request("/", "x", *lines), list(values), now, tried)
        return None if row is None else row.name, why

    def test_a_token_wins(self):
        self.rows["b1"].open_connections = 50
        for name in ("b1", "drained", "spare"):
            found = self.choose([self.token(name)], ["Cookie: SID=abc"])
            self.assertEqual(found, (name, "cookie"))

    def test_the_first_valid_one_of_all_wins(self):
        values = [b"", b"junk", self.token("b0", "other"), self.token("off"), self.token("b2")]
        self.assertEqual(self.choose([*values, self.token("b0")]), ("b2", "cookie"))

    def test_invalid_tokens_count_as_none(self):
        for value in (b"junk", b"", self.token("off"), self.token("b0", "other")):
            name, why = self.choose([value])
            self.assertEqual((name in ("b0", "b1", "b2"), why), (True, "least"), value)

    def test_a_failed_backend_s_token_counts_as_none_until_the_probe(self):
        self.pool.fail(self.rows["b1"], 0.0)
        for _ in range(5):
            name, why = self.choose([self.token("b1")], now=1.0)
            self.assertEqual((name in ("b0", "b2"), why), (True, "least"))
        self.assertEqual(
            self.choose([self.token("b1"), self.token("b2")], now=1.0), ("b2", "cookie")
        )
        self.assertEqual(self.choose([self.token("b1")], now=10.0), ("b1", "cookie"))

    def test_a_session_without_token_is_hashed(self):
        names = set()
        for number in range(60):
            lines = ["Cookie: a=b", f"Cookie: x=y; SID=s{number}; SID=z"]
            first = self.choose((), lines)
            self.assertEqual(first[1], "session")
            for row in self.pool.backends:
                row.open_connections += 7
            self.assertEqual(self.choose([b"junk"], lines), first)
            expected = self.pool.hashed(b"s%d" % number, 0.0)
            self.assertEqual(first[0], expected.name)
            names.add(first[0])
        self.assertEqual(names, {"b0", "b1", "b2"})

    def test_neither_takes_the_least(self):
        for name, connections in (("b0", 2), ("b1", 1), ("b2", 2)):
            self.rows[name].open_connections = connections
        for lines in ([], ["Cookie: sid=a; x=SID"], ["X: SID=a"]):
            self.assertEqual(self.choose((), lines), ("b1", "least"))

    def test_sessions_count_only_where_one_is_followed(self):
        self.site = site_of(pool=self.pool)
        self.assertEqual(self.choose((), ["Cookie: SID=a"])[1], "least")

    def test_reroute(self):
        """Those tried are out, whatever the cookie says; a session stays with its hash."""
        b1 = self.rows["b1"]
        name, why = self.choose([self.token("b1")], tried=[b1])
        self.assertEqual((name in ("b0", "b2"), why), (True, "reroute"))
        lines = ["Cookie: SID=abc"]
        first = self.choose((), lines)[0]
        found = {
            self.choose([self.token(first)], lines, tried=[self.rows[first]]) for _ in range(5)
        }
        self.assertEqual(len(found), 1)
        (found,) = found
        self.assertEqual((found[0] in ("b0", "b1", "b2"), found[1]), (True, "reroute"))
        self.assertNotEqual(found[0], first)

    def test_each_is_tried_once(self):
        tried = []
        for _ in range(4):
            row, _ = choose(self.site, request(), [], 0.0, tried)
            self.assertNotIn(row, tried)
            tried.append(row)
        self.assertEqual([row.name for row in tried][-1], "spare")
        self.assertEqual(choose(self.site, request(), [], 0.0, tried), (None, "reroute"))


class OtherChoiceTests(SynchronousTestCase):
    def test_url(self):
        made = site_of(schedule="url")

        def chosen(target: str, host="x", *lines: str) -> tuple[str, str]:
            row, why = choose(made, request(target, host, *lines), [], 0.0, ())
            return row.name, why

        names = set()
        for number in range(40):
            target = f"/page/{number}?q={number % 7}"
            found = chosen(target)
            self.assertEqual(found[1], "url")
            names.add(found[0])
            for row in made.pool.backends:
                row.open_connections += 3
            # Case, port and final dot of the host, the form of the target and cookies don't matter.
            for target_too, host in (
                *((target, "X"), (target, "x:8080"), (target, "x."), (target, "X.:80")),
                *((f"http://x{target}", "y"), (f"https://X:1{target}", "x")),
            ):
                self.assertEqual(chosen(target_too, host), found)
            self.assertEqual(chosen(target, "x", f"Cookie: DLBA=a; SID={number}"), found)
        self.assertEqual(len(names), 3)
        # Path, query and host do.
        for variants in (
            [chosen(f"/a{n}")[0] for n in range(30)],
            [chosen(f"/a?{n}")[0] for n in range(30)],
            [chosen("/a", f"x{n}")[0] for n in range(30)],
        ):
            self.assertEqual(len(set(variants)), 3)

    def test_url_ignores_tokens(self):
        made = site_of(schedule="url")
        first = choose(made, request(), [], 0.0, ())[0]
        other = next(row for row in made.pool.backends if row is not first)
        value = made.tokens.token("app", other.name)
        self.assertIs(choose(made, request(), [value], 0.0, ())[0], first)

    def test_connections_and_round_robin_keep_no_state(self):
        for schedule, why in (("connections", "least"), ("round-robin", "round-robin")):
            made = site_of(schedule=schedule)
            value = made.tokens.token("app", "b1")
            rows = [choose(made, request(), [value], 0.0, ()) for _ in range(6)]
            self.assertEqual({reason for _, reason in rows}, {why})
            self.assertEqual([row.name for row, _ in rows].count("b1"), 2)

    def test_connections_takes_the_least(self):
        made = site_of(schedule="connections")
        made.pool.backends[0].open_connections = made.pool.backends[2].open_connections = 1
        for _ in range(3):
            self.assertEqual(choose(made, request(), [], 0.0, ())[0].name, "b1")

    def test_reroutes(self):
        for schedule in ("url", "connections", "round-robin", "cookie"):
            made = site_of(schedule=schedule)
            tried = []
            for number in range(3):
                row, why = choose(made, request(), [], 0.0, tried)
                self.assertNotIn(row, tried)
                self.assertEqual(why == "reroute", number > 0)
                tried.append(row)
            self.assertEqual(choose(made, request(), [], 0.0, tried), (None, "reroute"))
