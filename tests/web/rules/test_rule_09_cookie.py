"""web.md rule 9: our cookie on the way out, byte for byte.

Shown elsewhere:
- two pools with overlapping hosts need two names, several nodes need a file or a channel:
  tests.config.test_checks
- keys made at first start: tests.test_state; learned from others: tests.web.test_service `Keys`
- Secure where a plain port redirects to TLS: tests.web.test_service_reload
  `test_secure_where_every_port_is_tls_or_leads_there`
- rotated keys: tests.web.test_exchange `test_rotated_keys`
- what our cookie does inward is in test_rule_07_forward and test_rule_05_choice
"""

import re
from typing import Any

from tests.web.harness import certificate, client_context, in_thread
from tests.web.rules.table import PATIENCE, RuleTest, head

LINE = b"HTTP/1.1 200 Fine"
END = b"Content-Length: 2"
DATE = b"Date: then"
PRIVATE = b"Cache-Control: private"
OURS = b"Set-Cookie: DLBA=%b; Path=/; HttpOnly; SameSite=Lax"


def asking(*fields: bytes) -> bytes:
    """A GET with these fields."""
    return head(b"GET / HTTP/1.1", b"Host: a", *fields)


class CookieTest(RuleTest):
    """One backend whose token is known."""

    def begin(self, **persistence: Any) -> None:
        """Serve, with a site that gives cookies."""
        self.app = self.recorder()
        # Its cookie shows the token.
        self.serve(site={"schedule": "cookie"})
        self.token = self.value(self.ask(asking()).all(b"Set-Cookie")[0])
        self.assertRegex(self.token, rb"^k1\.[A-Za-z0-9_-]{22}$")
        if persistence:
            self.on_reactor(self.service.stopService)
            self.serve(site={"schedule": "cookie", "persistence": persistence})

    def value(self, line: bytes) -> bytes:
        return line.partition(b"=")[2].partition(b";")[0]

    def relayed(self, said: tuple[bytes, ...], got: tuple[bytes, ...], *fields: bytes) -> None:
        """Fail unless a response with the fields `said` becomes one with `got`."""
        self.app.data = head(LINE, *said, END) + b"ok"
        client = self.client()
        client.sock.settimeout(PATIENCE)
        client.send(asking(*fields))
        wanted = head(LINE, *got, END) + b"ok"
        response = client.response()
        self.assertEqual(response.head + response.body, wanted)
        client.close()

    def rows(self, rows: tuple[tuple[tuple[bytes, ...], tuple[bytes, ...]], ...]) -> None:
        """What the backend says → what the client gets."""
        for said, got in rows:
            with self.row(said):
                self.relayed(said, got)
        self.done()


class Given(CookieTest):
    """Without `session_cookie`."""

    @in_thread
    def test_on_the_first_response_to_a_client_without_a_valid_token(self):
        self.begin()
        ours, said = OURS % self.token, (DATE, b"Set-Cookie: a=b", b"X: y")
        given = (*said, ours, PRIVATE)
        pair = b"DLBA=" + self.token
        for fields, got in (
            ((), given),
            ((b"Cookie: a=b",), given),
            ((b"Cookie: DLBA=forged",), given),
            ((b"Cookie: dlba=" + self.token,), given),
            ((b"Cookie: DLBA=" + self.token.replace(b"k1", b"k2"),), given),
            ((b"Cookie: " + pair,), said),
            ((b"Cookie: DLBA=forged; " + pair,), said),
        ):
            with self.row(fields):
                self.relayed(said, got, *fields)
        self.done()
        row = next(iter(self.proxy.backends()))
        # And the one that showed the token.
        self.soon(lambda: row.cookie_groups, 6)

    @in_thread
    def test_not_for_shared_caches(self):
        """`private` is added unless private (unqualified) or no-store stands there."""
        self.begin()
        ours = OURS % self.token

        def stays(*fields: bytes) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
            return (DATE, *fields), (DATE, *fields, ours)

        def added(*fields: bytes) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
            return (DATE, *fields), (DATE, *fields, ours, PRIVATE)

        def none(*fields: bytes) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
            return (DATE, *fields), (DATE, *fields)

        cache = b"Cache-Control: "
        self.rows(
            (
                added(),
                added(cache + b"no-cache"),
                added(cache + b"max-age=60, must-revalidate"),
                added(cache + b'private="set-cookie"'),
                added(cache + b'private="a, private, no-store"'),
                added(cache + b'no-cache="public"'),
                added(cache + b"privately"),
                added(cache + b"x-no-store"),
                added(b"Expires: 0", b"Pragma: no-cache"),
                stays(cache + b"private"),
                stays(cache + b"max-age=0, PRIVATE"),
                stays(cache + b"no-store"),
                stays(cache + b"max-age=0", b"cache-control: No-Store"),
                none(cache + b"public"),
                none(cache + b"max-age=60, Public"),
                none(cache + b"s-maxage=60"),
                none(cache + b"no-cache", cache + b"max-age=1,S-MaxAge=60"),
                none(b"CDN-Cache-Control: max-age=60"),
                none(b"Surrogate-Control: max-age=60"),
                none(b"surrogate-control:", cache + b"private"),
            )
        )

    @in_thread
    def test_injection_waits_for_the_next_response(self):
        self.begin()
        client = self.client()
        for fields, given in (
            ((b"Cache-Control: public",), 0),
            ((b"Surrogate-Control: max-age=1",), 0),
            ((), 1),
        ):
            self.app.data = head(LINE, DATE, *fields, END) + b"ok"
            client.send(asking())
            self.assertEqual(len(client.response().all(b"Set-Cookie")), given)

    @in_thread
    def test_a_backend_s_own_of_our_name_is_dropped(self):
        """Others pass unchanged, in order, never merged."""
        self.begin()
        ours = OURS % self.token
        own = (b"Set-Cookie: DLBA=x; Path=/", b"set-cookie:DLBA=", b"Set-Cookie:  DLBA = y")
        others = (
            b"Set-Cookie: a=1, b=2",
            b"SET-cookie: DLBAX=1",
            b"Set-Cookie: dlba=1",
            b"Set-Cookie:",
        )
        others += (b"Set-Cookie: a=DLBA=x; x", b"Set-Cookie: XDLBA=1")
        self.rows(
            (
                ((DATE, *own), (DATE, ours, PRIVATE)),
                ((DATE, *others), (DATE, *others, ours, PRIVATE)),
                (
                    (DATE, others[0], own[0], others[1], own[1], *others[2:], own[2]),
                    (DATE, *others, ours, PRIVATE),
                ),
            )
        )

    @in_thread
    def test_attributes_can_be_set(self):
        self.begin(
            cookie="Route", max_age=3600, path="/app", domain="example.com", same_site="Strict"
        )
        ours = (
            b"Set-Cookie: Route=%b; Path=/app; Domain=example.com; Max-Age=3600; HttpOnly; "
            b"SameSite=Strict" % self.token
        )
        self.rows((((DATE,), (DATE, ours, PRIVATE)),))

    @in_thread
    def test_secure_only_where_every_listener_is_tls_or_it_is_asked_for(self):
        backend = self.recorder()
        pair = [certificate("ecdsa", "a.example.com")]
        for plain, asked, secure in (
            (True, {}, False),
            (False, {}, True),
            (True, {"secure": True}, True),
            (False, {"secure": False}, False),
        ):
            with self.row((plain, asked)):
                site = {"schedule": "cookie", "persistence": asked}
                self.serve(backend, site=site, tls=pair, plain=plain)
                line = self.ask(asking(), context=client_context()).all(b"Set-Cookie")[0]
                end = b"; Path=/; HttpOnly; SameSite=Lax" + (b"; Secure" if secure else b"")
                self.assertEqual(re.sub(rb"^DLBA=[^;]+", b"", line), end)
                self.on_reactor(self.service.stopService)
        self.done()

    @in_thread
    def test_the_token_is_the_same_on_every_node_and_tells_no_address(self):
        self.begin()
        token, port = self.token, self.app.port
        for where in (port, self.recorder(name="other").port):
            self.on_reactor(self.service.stopService)
            pools = {"app": {"backends": {"app1": {"address": f"localhost:{where}"}}}}
            self.serve(pools=pools, site={"schedule": "cookie"})
            self.assertEqual(self.value(self.ask(asking()).all(b"Set-Cookie")[0]), token)
        pools = {"app": {"backends": {"app2": {"address": f"127.0.0.1:{port}"}}}}
        self.on_reactor(self.service.stopService)
        self.serve(pools=pools, site={"schedule": "cookie"})
        self.assertNotEqual(self.value(self.ask(asking()).all(b"Set-Cookie")[0]), token)


class Following(CookieTest):
    """With `session_cookie`: mapping and session end together."""

    FAR = b"Wed, 01 Jan 2098 00:00:00 GMT"
    PAST = b"Thu, 01 Jan 1970 00:00:00 GMT"

    @in_thread
    def test_for_each_of_that_name_in_order_with_its_attributes(self):
        self.begin(session_cookie="SID")

        def pair(attributes: bytes, mirrored: bytes | None = None) -> tuple[Any, Any]:
            session = b"Set-Cookie: SID=abc" + attributes
            mirrored = attributes if mirrored is None else mirrored
            ours = b"Set-Cookie: DLBA=" + self.token + mirrored + b"; HttpOnly"
            return (DATE, session), (DATE, session, ours, PRIVATE)

        other, second = b"Set-Cookie: z=1; Path=/", b"set-cookie: SID=2; Secure"
        ours = b"Set-Cookie: DLBA=" + self.token
        self.rows(
            (
                ((DATE,), (DATE,)),
                ((DATE, other), (DATE, other)),
                ((DATE, b"Set-Cookie: sid=1"), (DATE, b"Set-Cookie: sid=1")),
                pair(b""),
                pair(b"; Path=/app; Domain=x.example; Secure; SameSite=None; Partitioned"),
                pair(b"; Expires=" + self.FAR),
                pair(b"; Max-Age=60; Expires=" + self.PAST),
                pair(b"; path=/; MAX-AGE=5"),
                pair(b"; HttpOnly; Path=/", b"; Path=/"),
                pair(b"; Priority=High; Path=/; Comment=x", b"; Path=/"),
                pair(b";Path=/;Secure", b"; Path=/; Secure"),
                pair(b"; Expires=nonsense"),
                (
                    (DATE, b"Set-Cookie: SID=1; Path=/a", other, second, b"X: y"),
                    (
                        DATE,
                        b"Set-Cookie: SID=1; Path=/a",
                        ours + b"; Path=/a; HttpOnly",
                        other,
                        second,
                        ours + b"; Secure; HttpOnly",
                        b"X: y",
                        PRIVATE,
                    ),
                ),
            )
        )

    @in_thread
    def test_a_deletion_is_mirrored(self):
        self.begin(session_cookie="SID")

        def gone(attributes: bytes) -> tuple[Any, Any]:
            session = b"Set-Cookie: SID=" + attributes
            ours = b"Set-Cookie: DLBA=" + attributes + b"; HttpOnly"
            return (DATE, session), (DATE, session, ours, PRIVATE)

        self.rows(
            (
                gone(b"; Max-Age=0; Path=/"),
                gone(b"; Max-Age=-1"),
                gone(b"; max-age=00"),
                gone(b"; Expires=" + self.PAST + b"; Path=/app"),
                gone(b"; Expires=Thu, 01-Jan-1970 00:00:00 GMT"),
                gone(b"; Max-Age=0; Expires=" + self.FAR),
                gone(b"; Expires=" + self.PAST + b"; Max-Age=x"),
            )
        )

    @in_thread
    def test_whatever_token_came(self):
        """Also with a valid one: a session that is renewed renews the mapping."""
        self.begin(session_cookie="SID")
        session = b"Set-Cookie: SID=abc; Max-Age=60"
        ours = b"Set-Cookie: DLBA=" + self.token + b"; Max-Age=60; HttpOnly"
        for fields in (
            (),
            (b"Cookie: SID=abc",),
            (b"Cookie: SID=abc; DLBA=" + self.token,),
            (b"Cookie: DLBA=forged",),
        ):
            with self.row(fields):
                self.relayed((DATE, session), (DATE, session, ours, PRIVATE), *fields)
                # Without a Set-Cookie of the session nothing is given.
                self.relayed((DATE,), (DATE,), *fields)
        self.done()

    @in_thread
    def test_private_replaces_what_is_for_shared_caches(self):
        self.begin(session_cookie="SID")
        session = b"Set-Cookie: SID=abc"
        ours = b"Set-Cookie: DLBA=" + self.token + b"; HttpOnly"
        cache = b"Cache-Control: "

        def row(said: tuple[bytes, ...], kept: tuple[bytes, ...], private: bool = True) -> Any:
            end = (PRIVATE,) if private else ()
            return (DATE, *said, session), (DATE, *kept, session, ours, *end)

        self.rows(
            (
                row((cache + b"public",), ()),
                row((cache + b"public, max-age=60",), (cache + b"max-age=60",)),
                row((cache + b"s-maxage=60,max-age=5",), (cache + b"max-age=5",)),
                row((b"cache-control: PUBLIC", b"X: y"), (b"X: y",)),
                row((b"CDN-Cache-Control: max-age=60",), ()),
                row(
                    (b"Surrogate-Control: max-age=60", cache + b"no-cache"), (cache + b"no-cache",)
                ),
                row((cache + b"private",), (cache + b"private",), False),
                row((cache + b"no-store",), (cache + b"no-store",), False),
                row((cache + b'private="x"',), (cache + b'private="x"',)),
            )
        )

    @in_thread
    def test_a_backend_s_own_of_our_name_is_dropped(self):
        self.begin(session_cookie="SID")
        session = b"Set-Cookie: SID=abc"
        ours = b"Set-Cookie: DLBA=" + self.token + b"; HttpOnly"
        self.rows(
            (
                ((DATE, b"Set-Cookie: DLBA=x"), (DATE,)),
                ((DATE, b"Set-Cookie: DLBA=x", session), (DATE, session, ours, PRIVATE)),
            )
        )
