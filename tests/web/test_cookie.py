"""Tests of dlba.web.cookie."""

import os
import time
from email.utils import formatdate

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.web.cookie import CookieRule, cookie_values, cut_cookie, inject
from tests.web.oracles import assert_linear

#: 2026-11-22 12:00:00 UTC
NOW = 1795348800.0
ATTRIBUTES = b"; Path=/; HttpOnly; SameSite=Lax"
GIVEN = CookieRule(b"DLBA", ATTRIBUTES)
FOLLOWING = CookieRule(b"DLBA", ATTRIBUTES, b"SID")
TOKEN = b"k1.0123456789"
PRIVATE = b"\r\nCache-Control: private"


def block(*lines: str) -> bytes:
    """Field lines as heads hold them, each with the CRLF before it."""
    return "".join(f"\r\n{line}" for line in lines).encode("latin-1")


def naive_pairs(fields: bytes) -> list[tuple[bytes, bytes]]:
    """All cookies of all Cookie lines."""
    pairs = []
    for line in fields.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"cookie":
            for pair in value.split(b";"):
                key, equals, text = pair.partition(b"=")
                if equals:
                    pairs.append((key.strip(b" \t"), text.strip(b" \t")))
    return pairs


def naive_cut(fields: bytes, name: bytes) -> bytes:
    """`cut_cookie`, pair by pair."""
    lines = []
    for line in fields.split(b"\r\n"):
        field, colon, value = line.partition(b":")
        if field.lower() == b"cookie":
            pairs = value.lstrip(b" \t").split(b";")
            kept = [pair for pair in pairs if pair.partition(b"=")[0].strip(b" \t") != name]
            if len(kept) < len(pairs):
                blanks = value[: len(value) - len(value.lstrip(b" \t"))]
                rest = b";".join(kept).lstrip(b" \t")
                if not rest.strip(b" \t;"):
                    continue
                line = field + colon + blanks + rest
        lines.append(line)
    return b"\r\n".join(lines)


class RequestTests(SynchronousTestCase):
    def test_values(self):
        for lines, values in (
            (["Cookie: DLBA=a"], ["a"]),
            (["Cookie: x=1; DLBA=a; y=2"], ["a"]),
            (["cookie:DLBA=a;DLBA=b", "A: DLBA=c", "COOKIE: \tDLBA =\td "], ["a", "b", "d"]),
            (["Cookie: DLBA=a=b"], ["a=b"]),
            (["Cookie: DLBA="], [""]),
            (["Cookie: DLBA"], []),
            (["Cookie: xDLBA=1; DLBAx=2; dlba=3; $DLBA=4"], []),
            (["X-Cookie: DLBA=a", "Cookie-X: DLBA=a", "Set-Cookie: DLBA=a"], []),
            (["Cookie: x=DLBA=a"], []),
            ([], []),
        ):
            expected = [value.encode() for value in values]
            self.assertEqual(cookie_values(block(*lines), b"DLBA"), expected, lines)

    def test_cut(self):
        for before, after in (
            ("Cookie: DLBA=a; x=1", "Cookie: x=1"),
            ("Cookie: x=1; DLBA=a", "Cookie: x=1"),
            ("cookie:\tx=1; DLBA=a; y=2", "cookie:\tx=1; y=2"),
            ("COOKIE:DLBA=a;x=1", "COOKIE:x=1"),
            ("Cookie:  DLBA=a;  x=1 ;y", "Cookie:  x=1 ;y"),
            ("Cookie: x=1; DLBA=a; y=2; DLBA=b; z=3", "Cookie: x=1; y=2; z=3"),
            ("Cookie: DLBA = a ; x = 1 ", "Cookie: x = 1 "),
            ('Cookie: x=1;;DLBA=a; y="DLBA=a"', 'Cookie: x=1;; y="DLBA=a"'),
            ("Cookie: DLBA=a", None),
            ("Cookie: DLBA=a;", None),
            ("Cookie: DLBA=a; DLBA=b ; ", None),
        ):
            wanted = block("A: DLBA=a", *([] if after is None else [after]), "B: c")
            self.assertEqual(cut_cookie(block("A: DLBA=a", before, "B: c"), b"DLBA"), wanted)

    def test_what_isn_t_ours_stays(self):
        for line in (
            *(
                "Cookie: xDLBA=1; DLBAx=2; dlba=3",
                "Cookie:",
                "Cookie: ;; ;",
                "Cookie:\t a ; b=;;c  ",
            ),
            *(
                "X-Cookie: DLBA=a",
                "Set-Cookie: DLBA=a",
                "Cookie: x=DLBA",
                "Cookie: x=DLBA=1",
                "DLBA: 1",
            ),
        ):
            fields = block("A: b", line, "C: d")
            self.assertEqual(cut_cookie(fields, b"DLBA"), fields)

    def test_every_line(self):
        fields = block("Cookie: DLBA=a", "A: b", "cookie: x=1; DLBA=c", "Cookie: y=2")
        self.assertEqual(cut_cookie(fields, b"DLBA"), block("A: b", "cookie: x=1", "Cookie: y=2"))

    @settings(deadline=None, max_examples=300)
    @given(
        st.lists(
            st.builds(
                "{}:{}".format,
                st.sampled_from(["Cookie", "cookie", "Set-Cookie", "X"]),
                st.lists(
                    st.sampled_from(
                        [
                            "DLBA=a",
                            " DLBA=b",
                            " x=1",
                            "y=2 ",
                            "",
                            " ",
                            "z",
                            "DLBA =\tc",
                            "DLBA",
                            " DLBA ",
                            "\xe9=DLBA",
                        ]
                    ),
                    max_size=5,
                ).map(";".join),
            ),
            max_size=4,
        )
    )
    def test_cut_takes_ours_and_nothing_else(self, lines):
        fields = block(*lines)
        pairs = naive_pairs(fields)
        self.assertEqual(cookie_values(fields, b"DLBA"), [v for n, v in pairs if n == b"DLBA"])
        after = cut_cookie(fields, b"DLBA")
        self.assertEqual(after, naive_cut(fields, b"DLBA"))
        self.assertEqual(naive_pairs(after), [pair for pair in pairs if pair[0] != b"DLBA"])
        others = [line for line in fields.split(b"\r\n") if not line.lower().startswith(b"cookie:")]
        left = [line for line in after.split(b"\r\n") if not line.lower().startswith(b"cookie:")]
        self.assertEqual(left, others)
        self.assertEqual(cut_cookie(after, b"DLBA"), after)


class GivenTests(SynchronousTestCase):
    """Without a session cookie: on the first response to a client without a valid token."""

    def ours(self, *lines: str) -> bytes:
        return block(*lines) + b"\r\nSet-Cookie: DLBA=" + TOKEN + ATTRIBUTES

    def test_when_needed(self):
        fields = block("Server: x", "Set-Cookie: a=b")
        self.assertEqual(inject(fields, GIVEN, TOKEN, False, NOW), (fields, 0))
        self.assertEqual(
            inject(fields, GIVEN, TOKEN, True, NOW),
            (self.ours("Server: x", "Set-Cookie: a=b") + PRIVATE, 1),
        )
        self.assertEqual(inject(b"", GIVEN, TOKEN, True, NOW), (self.ours() + PRIVATE, 1))

    def test_not_for_shared_caches(self):
        for line, added in (
            ("Cache-Control: private", b""),
            ("cache-control: max-age=5 ,\tPRIVATE", b""),
            ("Cache-Control: no-store", b""),
            ("Cache-Control: no-cache", PRIVATE),
            ("Cache-Control: max-age=60", PRIVATE),
            ('Cache-Control: private="set-cookie"', PRIVATE),
            ("Cache-Control: privately", PRIVATE),
            ('Cache-Control: private="a, no-store, b", max-age=60', PRIVATE),
            ('Cache-Control: max-age=60, x="a, private, b"', PRIVATE),
            ('Cache-Control: x="a \\" , private', PRIVATE),
            ('Cache-Control: x="a", private', b""),
            ("Cache-Control:", PRIVATE),
            ("X-Cache-Control: private", PRIVATE),
        ):
            fields, given_out = inject(block(line), GIVEN, TOKEN, True, NOW)
            self.assertEqual((fields, given_out), (self.ours(line) + added, 1), line)

    def test_responses_for_shared_caches_get_none(self):
        for line in (
            *(
                "Cache-Control: public",
                "cache-control: max-age=5, PUBLIC ",
                "Cache-Control: s-maxage=9",
            ),
            *("Cache-Control: S-MaxAge=9, no-cache", "CDN-Cache-Control: max-age=1"),
            *("surrogate-control: x", "Cache-Control:public", "Cache-Control: private, public"),
        ):
            for lines in ([line], ["Cache-Control: no-cache", line], [line, "A: b"]):
                fields = block(*lines)
                self.assertEqual(inject(fields, GIVEN, TOKEN, True, NOW), (fields, 0), line)

    def test_a_backend_s_cookie_of_our_name_is_dropped(self):
        lines = (
            *("Set-Cookie: DLBA=evil; Path=/", "set-cookie:DLBA=", "SET-COOKIE: \t DLBA \t= x"),
            *("Set-Cookie: a=DLBA", "Set-Cookie: DLBA2=x", "Set-Cookie: dlba=x", "X: DLBA=1"),
        )
        for rule in (GIVEN, FOLLOWING):
            fields, given_out = inject(block(*lines), rule, TOKEN, False, NOW)
            self.assertEqual((fields, given_out), (block(*lines[3:]), 0))


class FollowingTests(SynchronousTestCase):
    """With a session cookie: ours goes with it, whatever the client has."""

    def follows(self, line: str, ours: str, given_out: int) -> None:
        fields = block("A: b", f"Set-Cookie: SID={line}", "C: d")
        wanted = block("A: b", f"Set-Cookie: SID={line}", f"Set-Cookie: DLBA={ours}", "C: d")
        for needed in (False, True):
            self.assertEqual(
                inject(fields, FOLLOWING, TOKEN, needed, NOW), (wanted + PRIVATE, given_out), line
            )

    def test_attributes(self):
        for attributes, mirrored in (
            ("", ""),
            ("; Path=/app", "; Path=/app"),
            ("; Domain=.x.org; Secure", "; Domain=.x.org; Secure"),
            (";Secure;HttpOnly;SameSite=None;Partitioned", "; Secure; SameSite=None; Partitioned"),
            ("; max-age=60", "; max-age=60"),
            ("; Priority=High; PATH = / ", "; PATH = /"),
            ("; Comment=x; Version=1; HttpOnly", ""),
            ("; Path=/a; Path=/b", "; Path=/a; Path=/b"),
            (";;", ""),
        ):
            self.follows(f"1{attributes}", f"{TOKEN.decode()}{mirrored}; HttpOnly", 1)

    def test_deletions(self):
        past, future = formatdate(NOW - 1, usegmt=True), formatdate(NOW + 1, usegmt=True)
        for attributes, deleted in (
            ("Max-Age=0", True),
            ("Max-Age=-1", True),
            ("max-age = 0 ", True),
            ("Max-Age=1", False),
            ("Max-Age=999999999", False),
            (f"Expires={past}", True),
            (f"expires={past}", True),
            (f"Expires={future}", False),
            ("Expires=Thu, 01 Jan 1970 00:00:00 GMT", True),
            ("Expires=Thu, 01-Jan-1970 00:00:10 GMT", True),
            ("Expires=Thursday, 01-Jan-70 00:00:10 GMT", True),
            ("Expires=Thu Jan  1 00:00:00 1970", True),
            ("Expires=Sun, 22 Nov 2099 00:00:00 GMT", False),
            ("Expires=", False),
            ("Expires=0", False),
            ("Expires=never", False),
            # Max-Age goes before Expires, in either order.
            (f"Max-Age=60; Expires={past}", False),
            (f"Expires={past}; Max-Age=60", False),
            (f"Max-Age=0; Expires={future}", True),
            # The last valid one counts; what isn't a number doesn't.
            ("Max-Age=0; Max-Age=60", False),
            ("Max-Age=60; Max-Age=0", True),
            ("Max-Age=60; Max-Age=x", False),
            (f"Max-Age=x; Expires={past}", True),
            (f"Max-Age=; Expires={past}", True),
            (f"Max-Age=+60; Expires={past}", True),
            (f"Max-Age=6.5; Expires={past}", True),
        ):
            token = "" if deleted else TOKEN.decode()
            mirrored = "; ".join(part.strip() for part in attributes.split(";"))
            self.follows(f"1; {attributes}", f"{token}; {mirrored}; HttpOnly", int(not deleted))

    def test_large_ages(self):
        # RFC 6265bis 5.6.2: any number of digits is a Max-Age.
        for age, given_out in (("9" * 19, 1), ("9" * 5000, 1), ("-" + "9" * 19, 0), ("0" * 30, 0)):
            line = f"1; Max-Age={age}; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
            self.assertEqual(
                inject(block(f"Set-Cookie: SID={line}"), FOLLOWING, TOKEN, True, NOW)[1], given_out
            )

    def test_an_invalid_date_leaves_the_one_before(self):
        # RFC 6265bis 5.6.1: an attribute whose date can't be read is ignored.
        line = "Set-Cookie: SID=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Expires=never"
        self.assertEqual(inject(block(line), FOLLOWING, TOKEN, True, NOW)[1], 0)

    def test_dates_are_in_utc_whatever_they_say(self):
        # RFC 6265bis 5.1.1: the zone isn't read, and the node's own doesn't matter.
        before = os.environ.get("TZ")

        def restore():
            os.environ.pop("TZ")
            if before is not None:
                os.environ["TZ"] = before
            time.tzset()

        self.addCleanup(restore)
        for zone in ("UTC", "Pacific/Kiritimati", "Etc/GMT+12"):
            os.environ["TZ"] = zone
            time.tzset()
            for hour, given_out in ((11, 0), (13, 1)):
                for date in (
                    f"Sun, 22 Nov 2026 {hour}:00:00",
                    f"Sun, 22 Nov 2026 {hour}:00:00 GMT",
                    f"Sun, 22 Nov 2026 {hour}:00:00 +0500",
                    f"Sun Nov 22 {hour}:00:00 2026",
                ):
                    fields = block(f"Set-Cookie: SID=1; Expires={date}")
                    count = inject(fields, FOLLOWING, TOKEN, True, NOW)[1]
                    self.assertEqual(count, given_out, (zone, date))

    def test_each_line_in_order(self):
        fields = block(
            "Set-Cookie: SID=1; Path=/a",
            "Set-Cookie: x=SID",
            "Set-Cookie: SIDE=1",
            "set-cookie:SID=; Max-Age=0; Path=/b",
            "Set-Cookie: DLBA=evil",
            "Set-Cookie: sid=1",
        )
        token = TOKEN.decode()
        wanted = block(
            "Set-Cookie: SID=1; Path=/a",
            f"Set-Cookie: DLBA={token}; Path=/a; HttpOnly",
            "Set-Cookie: x=SID",
            "Set-Cookie: SIDE=1",
            "set-cookie:SID=; Max-Age=0; Path=/b",
            "Set-Cookie: DLBA=; Max-Age=0; Path=/b; HttpOnly",
            "Set-Cookie: sid=1",
        )
        self.assertEqual(inject(fields, FOLLOWING, TOKEN, True, NOW), (wanted + PRIVATE, 1))

    def test_without_the_session_cookie_nothing_happens(self):
        for lines in (
            [],
            ["Set-Cookie: x=1", "Cache-Control: public"],
            ["X: SID=1", "Cache-Control: public, s-maxage=5"],
            ["Set-Cookie: x=1; SID=2", "Cache-Control: public"],
            ["Set-Cookie: SID", "CDN-Cache-Control: a"],
        ):
            fields = block(*lines)
            self.assertEqual(inject(fields, FOLLOWING, TOKEN, True, NOW), (fields, 0), lines)

    def test_private_replaces_what_is_for_shared_caches(self):
        ours = f"Set-Cookie: DLBA={TOKEN.decode()}; HttpOnly"
        for lines, left in (
            (["Cache-Control: public"], ["Cache-Control: private"]),
            (
                ["Cache-Control: max-age=5, public"],
                ["Cache-Control: max-age=5", "Cache-Control: private"],
            ),
            (
                ["Cache-Control: S-MaxAge=5 , no-cache"],
                ["Cache-Control: no-cache", "Cache-Control: private"],
            ),
            (["Cache-Control: private, public"], ["Cache-Control: private"]),
            (["CDN-Cache-Control: max-age=5", "A: b"], ["A: b", "Cache-Control: private"]),
            (["surrogate-control: x", "Cache-Control: no-store"], ["Cache-Control: no-store"]),
        ):
            fields = block("Set-Cookie: SID=1", *lines)
            got, _ = inject(fields, FOLLOWING, TOKEN, True, NOW)
            self.assertEqual(got, block("Set-Cookie: SID=1", ours, *left), lines)

    @settings(deadline=None, max_examples=300)
    @given(
        st.lists(
            st.one_of(
                st.sampled_from(
                    [
                        "Set-Cookie: SID=1",
                        "set-cookie:\tSID =2;Path=/",
                        "Set-Cookie: DLBA=x",
                        "A: SID=",
                    ]
                ),
                st.text(st.sampled_from("SIDLBA=; Set-Cookie:"), max_size=20),
            ),
            max_size=6,
        )
    )
    def test_ours_follows_theirs(self, lines):
        def names(fields):
            return [
                line.partition(b":")[2].partition(b";")[0].partition(b"=")[0].strip(b" \t")
                for line in fields.split(b"\r\n")
                if line.lower().startswith(b"set-cookie:") and b"=" in line.partition(b";")[0]
            ]

        before = [name for name in names(block(*lines)) if name != b"DLBA"]
        after, given_out = inject(block(*lines), FOLLOWING, TOKEN, True, NOW)
        wanted = [name for one in before for name in ([one, b"DLBA"] if one == b"SID" else [one])]
        self.assertEqual(names(after), wanted)
        self.assertEqual(given_out, before.count(b"SID"))


class CostTests(SynchronousTestCase):
    def test_linear(self):
        def call(data):
            cookie_values(data, b"DLBA")
            cut_cookie(data, b"DLBA")
            inject(data, GIVEN, TOKEN, True, NOW)
            inject(data, FOLLOWING, TOKEN, True, NOW)

        end = b"\r\nX: DLBA SID"
        for first in (
            *(b"\r\nCookie:", b"\r\nCookie: DLBA=", b"\r\nSet-Cookie:", b"\r\nSet-Cookie: a"),
            *(b"\r\nSet-Cookie: SID", b"\r\nSet-Cookie: SID=", b"\r\nSet-Cookie: SID=1; Expires="),
            *(
                b"\r\nSet-Cookie: SID=1; Max-Age=",
                b"\r\nCache-Control:",
                b"\r\nCache-Control: s-maxage",
            ),
        ):
            for unit in (
                b" ",
                b"\t ",
                b"a",
                b";",
                b"; ",
                b"=",
                b" =",
                b"DLBA=a;",
                b",",
                b"1",
                b"1 ",
            ):
                assert_linear(self, call, lambda n, f=first, u=unit: f + u * (n // len(u)) + end)
        for unit in (
            b"\r\nSet-Cookie: SID=1",
            b"\r\nCookie: DLBA=1; a=b",
            b"\r\nCache-Control: public",
        ):
            assert_linear(self, call, lambda n, u=unit: u * (n // len(u)) + end)
