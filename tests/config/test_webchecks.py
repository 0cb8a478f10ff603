"""Tests of dlba.config.webchecks. § stands before each place of an expected problem."""

from dlba.config.nodes import locate
from dlba.config.shapes import Reading, read_mapping
from dlba.config.values import NodeConfig
from dlba.config.webchecks import _FRAMING as NAMES
from dlba.config.webchecks import web_warnings
from dlba.web import head, response
from tests.config.samples import node_of
from tests.config.test_checks import Case, marked, web

TLS = "{port: 443, tls: {certificates: [{certificate: c, key: k}]}}"
FRAMING = "DLBA itself writes what frames a message or belongs to one connection"


def site(**keys):
    """A site's list of one with `keys` besides those it needs."""
    more = "".join(f", {key}: {value}" for key, value in keys.items())
    return f"[{{hosts: ['*'], pool: app{more}}}]"


class RedirectTests(Case):
    def test_with_somewhere_to_go(self):
        self.finds(web(listen=f"[{{port: 80, redirect: https}}, {TLS}]"))

    def test_nowhere_to_go(self):
        self.finds(
            web(listen="[{port: 80, redirect: §https}, {port: 81, redirect: §https}]"),
            *(
                f"array.web.listen[{index}].redirect: "
                "expected a listener with tls to redirect to, got none"
                for index in range(2)
            ),
        )

    def test_on_tls_itself(self):
        self.finds(
            web(listen=f"[{TLS[:-1]}, redirect: §https}}]"),
            "array.web.listen[0].redirect: expected no redirect on a listener with tls, got one",
        )

    def test_a_broken_tls_is_told_once(self):
        _, between = self.found(web(listen="[{port: 80, redirect: https}, {port: 443, tls: 1}]"))
        self.assertEqual(between, [])


class FramingTests(Case):
    def test_they_are_what_heads_are_cut_of(self):
        """The field that a site may not set is one that isn't there when its changes come."""
        for cut, others in ((head._CUT, set()), (response._CUT, {"expect"})):
            names = {name for name in NAMES if len(cut(f"\r\n{name}: x".encode())) > 1}
            self.assertEqual(names, NAMES - others)


class HeaderChangesTests(Case):
    def wrong(self, key, place, text, message):
        path = f"array.web.sites[0].{key}.{place}"
        self.finds(web(sites=site(**{key: text})), f"{path}: {message}")

    def test_what_a_site_may_do(self):
        for key, text in (
            ("request_headers", "{set: {Host: 'a.example:80', X-A: b}, remove: [Cookie, Via]}"),
            ("request_headers", "{remove: [Date, Set-Cookie, Forwarded, X-Real-IP]}"),
            ("response_headers", "{set: {Strict-Transport-Security: x}, remove: [Server]}"),
            ("response_headers", "{remove: [X-Forwarded-For, Host]}"),
        ):
            self.finds(web(sites=site(**{key: text})))

    def test_framing_is_ours(self):
        names = ("Content-Length", "transfer-encoding", "Connection", "Keep-Alive", "TE")
        names += ("Proxy-Connection", "TRAILER", "Upgrade", "Expect", "HTTP2-Settings")
        for name in (*names, "content_length", "Transfer_Encoding"):
            message = f'expected another header field, got "{name}" ({FRAMING})'
            for key in ("request_headers", "response_headers"):
                self.wrong(key, f"set.{name}", f"{{set: {{§{name}: x}}}}", message)
                self.wrong(key, "remove[0]", f"{{remove: [§{name}]}}", message)

    def test_who_the_client_is(self):
        why = "X-Forwarded-* say who the client is; see web.trusted_proxies"
        for name in ("X-Forwarded-For", "x_forwarded_proto", "X-Forwarded_Host", "X-Forwarded-By"):
            message = f'expected another header field, got "{name}" ({why})'
            self.wrong("request_headers", f"set.{name}", f"{{set: {{§{name}: x}}}}", message)
            self.wrong("request_headers", "remove[0]", f"{{remove: [§{name}]}}", message)

    def test_date_and_cookies_of_responses(self):
        for name, why in (
            ("date", "it is the backend's, and added where it is missing"),
            ("Set-Cookie", "there may be several, and one may be the persistence cookie"),
        ):
            message = f'expected another header field, got "{name}" ({why})'
            self.wrong("response_headers", f"set.{name}", f"{{set: {{§{name}: x}}}}", message)
            self.wrong("response_headers", "remove[0]", f"{{remove: [§{name}]}}", message)

    def test_host(self):
        self.wrong(
            "request_headers",
            "remove[1]",
            "{remove: [X-A, §host]}",
            'expected another header field, got "host" (every request has one; it may be set)',
        )
        self.wrong(
            "request_headers",
            "set.HOST",
            "{set: {HOST: §a b}}",
            'expected a host with or without port, got "a b"',
        )

    def test_set_and_removed(self):
        for key in ("request_headers", "response_headers"):
            self.wrong(
                key,
                "remove[1]",
                "{set: {X-A: b}, remove: [X-B, §x-a]}",
                'expected a field that `set` doesn\'t name, got "x-a" (set replaces what is there)',
            )

    def test_what_is_broken_is_told_once(self):
        for text in ("1", "{set: 1, remove: 1}", "{set: {Host: ''}, remove: [' ']}"):
            single, between = self.found(web(sites=site(request_headers=text)))
            self.assertTrue(single)
            self.assertEqual(between, [], text)


class WarningTests(Case):
    def warns(self, text, *expected):
        text, places = marked(text)
        root = node_of(text)
        reading = Reading()
        config = read_mapping(NodeConfig, root, reading)
        self.assertEqual(reading.problems, [])
        found = [str(p) for p in web_warnings(config.array.web, locate(root, "array"))]
        expected = [f"node.yaml:{p}: array.web.{e}" for p, e in zip(places, expected, strict=True)]
        self.assertEqual(found, expected)

    def sites(self, *sites):
        return web(sites="[" + ", ".join(site.replace("}", ", pool: app}") for site in sites) + "]")

    def unreached(self, index, *earlier):
        names = ", ".join(f"web.sites[{number}]" for number in earlier)
        message = "expected a host or path that no earlier site takes, got those of"
        return f"sites[{index}]: {message} {names}"

    def test_sites_that_are_reached(self):
        for sites in (
            ("{hosts: [a]}", "{hosts: [b]}", "{hosts: ['*']}"),
            ("{hosts: [a], paths: [/x]}", "{hosts: [a]}"),
            ("{hosts: [a], paths: [/x/]}", "{hosts: [a], paths: [/x]}"),
            ("{hosts: ['*.a.b']}", "{hosts: ['*.b']}"),
            ("{hosts: ['*.b']}", "{hosts: [b]}", "{hosts: [ab]}"),
            ("{hosts: ['*']}", "{hosts: [a], default: true}"),
            ("{hosts: [a]}", "{hosts: [a, b]}"),
        ):
            self.warns(self.sites(*sites))

    def test_sites_that_are_not(self):
        for sites, earlier in (
            (("{hosts: ['*']}", "§{hosts: [a]}"), (0,)),
            (("{hosts: [a]}", "§{hosts: [a], paths: [/x]}"), (0,)),
            (("{hosts: ['*.b']}", "§{hosts: [x.b, '*.y.b', z.y.b]}"), (0,)),
            (("{hosts: ['*'], paths: [/x]}", "§{hosts: [a], paths: [/x/y, /xy]}"), (0,)),
            (("{hosts: [a]}", "{hosts: [b]}", "§{hosts: [b, a]}"), (0, 1)),
            (("{hosts: ['*'], default: true}", "§{hosts: ['[::1]', 192.0.2.1]}"), (0,)),
        ):
            self.warns(self.sites(*sites), self.unreached(len(sites) - 1, *earlier))

    def pool(self, *backends):
        entries = ", ".join(
            f"b{index}: {{address: '192.0.2.{index}:80', {more}}}"
            for index, more in enumerate(backends, 1)
        )
        return web(pools=f"{{app: {{backends: §{{{entries}}}}}}}")

    def test_pools_that_serve(self):
        for backends in (
            ("weight: 1",),
            ("backup: true", "weight: 1"),
            ("weight: 0", "weight: 1", "enabled: false"),
            ("weight: 0", "backup: true"),
        ):
            self.warns(self.pool(*backends).replace("§", ""))

    def test_pools_that_do_not(self):
        where = "pools.app.backends: expected an enabled backend"
        for backends, message in (
            (("enabled: false",) * 2, ", got none: all requests get 503"),
            (
                ("weight: 0", "enabled: false"),
                " with a weight above 0, got none: nobody takes a new client",
            ),
            (
                ("backup: true", "enabled: false"),
                " that is no backup, got none: the backups take all requests",
            ),
        ):
            self.warns(self.pool(*backends), where + message)
