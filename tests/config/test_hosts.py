"""Tests of dlba.config.hosts."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.config.hosts import Hosts, wider

PATTERNS = st.sampled_from(
    ("*", "*.a", "*.b.a", "*.c.b.a", "a", "b.a", "c.b.a", "xb.a", "ba", "192.0.2.1", "[::1]")
)


def takes(pattern: str, host: str) -> bool:
    """What a pattern means, for a single host."""
    if pattern == "*":
        return True
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and host != pattern[2:]
    return host == pattern


def covers(pattern: str, other: str) -> bool:
    """Whether every host that the pattern `other` takes is taken by `pattern` too."""
    if pattern in ("*", other):
        return True
    return pattern.startswith("*.") and other.endswith(pattern[1:])


class CoversTests(SynchronousTestCase):
    """The tests' own idea of it is right."""

    HOSTS = ("a", "b.a", "x.a", "c.b.a", "x.b.a", "x.c.b.a", "x.x.a", "z", "[::1]", "ba", "xb.a")
    HOSTS += ("192.0.2.1",)

    @settings(deadline=None)
    @given(PATTERNS, PATTERNS)
    def test_is_inclusion_of_hosts(self, one, other):
        hosts = [host for host in self.HOSTS if takes(other, host)]
        self.assertEqual(covers(one, other), all(takes(one, host) for host in hosts))


class WiderTests(SynchronousTestCase):
    @given(PATTERNS, PATTERNS)
    def test_wider_are_those_that_cover(self, pattern, other):
        self.assertEqual(pattern in set(wider(other)), covers(pattern, other))

    def test_each_once_and_itself_first(self):
        for host, patterns in (
            ("c.b.a", ["c.b.a", "*.b.a", "*.a", "*"]),
            ("*.b.a", ["*.b.a", "*.a", "*"]),
            ("*", ["*"]),
            ("[::1]", ["[::1]", "*"]),
        ):
            self.assertEqual(list(wider(host)), patterns)


class HostsTests(SynchronousTestCase):
    @given(st.lists(st.tuples(st.sampled_from("pqr"), PATTERNS), max_size=8))
    def test_the_first_of_another_pool(self, sites):
        hosts = Hosts()
        for index, (pool, host) in enumerate(sites):
            met = [
                (number, other)
                for number, (other_pool, other) in enumerate(sites[:index])
                if other_pool != pool and (covers(other, host) or covers(host, other))
            ]
            found = hosts.meets(pool, host)
            self.assertEqual(found is not None, bool(met))
            if found is not None:
                number, other = met[0]
                narrow = host if covers(other, host) else other
                self.assertEqual(found, (number, sites[number][0], narrow))
            hosts.add(index, pool, host)
