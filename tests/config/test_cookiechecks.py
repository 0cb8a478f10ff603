"""Tests of dlba.config.cookiechecks. § stands before each place of an expected problem."""

import time

from dlba.config.cookiechecks import cookie_problems
from dlba.config.values import ListenerConfig, SiteConfig, WebConfig
from dlba.config.webchecks import web_warnings
from tests.config.samples import node_of
from tests.config.test_checks import TWO, Case, web


class CookieNameTests(Case):
    def clash(self, one, other, host, more=""):
        mark = "§" if host else ""
        sites = f"[{{pool: app, {one}}}, {mark}{{pool: api, {other}}}{more}]"
        expected = (
            f"array.web.sites[1]: expected another cookie name than web.sites[0] has for {host}, "
            'as pools app and api differ, got "DLBA" for both'
        )
        self.finds(web(sites=sites, pools=TWO), *([expected] if host else []))

    def test_overlapping_hosts(self):
        for one, other, host in (
            ("[a.b]", "[a.b]", "a.b"),
            ("[a.b]", "[c.d]", None),
            ("['*']", "[c.d]", "c.d"),
            ("[c.d]", "['*']", "c.d"),
            ("['*.b']", "[a.b]", "a.b"),
            ("['*.b']", "[b]", None),
            ("['*.b']", "['*.a.b']", "*.a.b"),
            ("['*.a.b']", "['*.b']", "*.a.b"),
            ("['*.a.b']", "['*.c.b']", None),
            ("[x, a.b]", "[y, a.b]", "a.b"),
        ):
            self.clash(f"hosts: {one}", f"hosts: {other}", host)

    def test_only_cookie_sites_with_the_same_name_and_other_pools(self):
        base = "hosts: [a]"
        self.clash(f"{base}, schedule: url", base, None)
        self.clash(base, f"{base}, schedule: round-robin", None)
        self.clash(base, f"{base}, persistence: {{cookie: X}}", None)
        self.finds(web(sites="[{pool: app, hosts: [a]}, {pool: app, hosts: [a]}]", pools=TWO))

    def test_default_site_takes_the_paths_that_another_leaves(self):
        default = "hosts: [a], default: true"
        limited = "hosts: [b], paths: [/x]"
        self.clash(default, "hosts: [b]", None)
        self.clash(default, limited, "b")
        self.clash(limited, default, "b")
        # Here a third site takes the remaining paths, with a cookie name of its own.
        self.clash(default, limited, None, ", {hosts: [b], pool: app, persistence: {cookie: X}}")

    def test_place_is_the_name_where_it_stands(self):
        sites = "[{pool: app, hosts: [a], persistence: {cookie: X}}, "
        sites += "{pool: api, hosts: [a], persistence: {cookie: §X}}]"
        self.finds(
            web(sites=sites, pools=TWO),
            "array.web.sites[1].persistence.cookie: expected another cookie name than "
            'web.sites[0] has for a, as pools app and api differ, got "X" for both',
        )

    def test_one_problem_a_site(self):
        site = "{hosts: [a], pool: "
        self.finds(
            web(sites=f"[{site}app}}, {site}app}}, §{site}api}}]", pools=TWO),
            "array.web.sites[2]: expected another cookie name than web.sites[0] has for a, "
            'as pools app and api differ, got "DLBA" for both',
        )


class CookieAttributeTests(Case):
    def faults(self, persistence, *expected):
        sites = f"[{{hosts: [a], pool: app, persistence: {{{persistence}}}}}]"
        key = "array.web.sites[0].persistence"
        self.finds(web(sites=sites), *(f"{key}.{message}" for message in expected))

    def test_session_cookie_is_another(self):
        self.faults(
            "cookie: X, session_cookie: §X",
            'session_cookie: expected another name than our cookie\'s, got "X"',
        )
        self.faults("cookie: X, session_cookie: x")

    def test_same_site_none_needs_secure(self):
        wanted = "same_site: expected `secure: true` with None, got "
        self.faults("same_site: §None", wanted + "no such key")
        self.faults("same_site: §None, secure: false", wanted + "false")
        self.faults("same_site: None, secure: true")

    def test_cookie_prefixes(self):
        self.faults(
            "cookie: §__Secure-X",
            'cookie: expected `secure: true` with the name "__Secure-X", got no such key',
        )
        self.faults("cookie: __Secure-X, secure: true, path: /x, domain: a.b")
        self.faults("cookie: __Host-X, secure: true")
        self.faults(
            "cookie: __Host-X, secure: true, path: §/x, domain: §a.b",
            'path: expected / with the name "__Host-X", got "/x"',
            'domain: expected no domain with the name "__Host-X", got one',
        )


class ManyTests(Case):
    def test_tens_of_thousands_of_hosts_and_sites_take_no_minutes(self):
        listen = (ListenerConfig(port=80),)
        many = [
            SiteConfig(hosts=tuple(f"{pool}{i}.a.b" for i in range(10_000)), pool=pool)
            for pool in ("p", "q")
        ]
        many += [SiteConfig(hosts=(f"r{i}.b",), paths=("/x",), pool=f"r{i}") for i in range(3000)]
        many.append(SiteConfig(hosts=("*",), default=True, pool="d"))
        config = WebConfig(listen=listen, sites=tuple(many), pools={})
        start = time.process_time()
        (problem,) = cookie_problems(config, node_of("{}"))
        self.assertIn("than web.sites[0] has for p0.a.b, as pools p and d differ", problem.message)
        self.assertEqual(list(web_warnings(config, node_of("{}"))), [])
        # All pairs took more than a minute.
        self.assertLess(time.process_time() - start, 5.0)
