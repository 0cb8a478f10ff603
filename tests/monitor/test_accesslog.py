"""Access log lines: exact, read back by independent parsers, and safe whatever a client sends."""

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.monitor.accesslog import (
    FORMATS,
    NAMES_KEPT,
    SECONDS_KEPT,
    Record,
    _Kept,
    _Literals,
    _Names,
    formatter,
    header,
)

ZONE = timezone(timedelta(hours=-7, minutes=-30))
ENDED = datetime(2026, 2, 3, 4, 5, 6, 789000, tzinfo=ZONE).timestamp()
HEAD = (
    b"Host: shop.example.com\r\nREFERER:https://a.example/?q=1 \r\n"
    b"user-Agent: \tMozilla/5.0 (X11)\r\nX-Referer: no\r\n\r\n"
)
RECORD = Record(
    ENDED, "192.0.2.1", 54321, 443, True, b"GET /a?b=1 HTTP/1.1", HEAD, 200, 1234, 1024,
    "shop", "app", "app1", "cookie", 0.001, 0.0, 0.002, 0.0125, 0.25, 0, "--", 31, 9,
)  # fmt: skip

# From Apache's documentation of the combined format: quotes inside a field are escaped.
COMBINED = re.compile(
    r'(?P<h>\S+) (?P<l>\S+) (?P<u>\S+) \[(?P<t>[^\]]+)\] "(?P<r>(?:[^"\\]|\\.)*)" '
    r'(?P<s>\d{3}) (?P<b>\d+|-) "(?P<referer>(?:[^"\\]|\\.)*)" "(?P<agent>(?:[^"\\]|\\.)*)"'
)
# From HAProxy's manual, 8.2.3: the fields of the HTTP log format after the process name.
HAPROXY = re.compile(
    r"(?P<ci>\S+):(?P<cp>\d+) \[(?P<tr>[^\]]+)\] (?P<ft>[^ ]+) (?P<b>[^ /]+)/(?P<s>[^ /]+) "
    r"(?P<TR>-1|\d+)/(?P<Tw>-1|\d+)/(?P<Tc>-1|\d+)/(?P<Tr>-1|\d+)/(?P<Ta>\+?-1|\+?\d+) "
    r"(?P<ST>-1|\d{3}) (?P<B>\+?\d+) (?P<CC>\S+) (?P<CS>\S+) (?P<tsc>[A-Za-z-]{4}) "
    r"(?P<ac>\d+)/(?P<fc>\d+)/(?P<bc>\d+)/(?P<sc>\d+)/(?P<rc>\+?\d+) (?P<sq>\d+)/(?P<bq>\d+) "
    r'"(?P<r>[^"]*)"'
)

# What a client controls. A request line holds no LF, as the head is split there; all else goes.
wild = st.binary(max_size=80) | st.lists(st.sampled_from(b'"\\#\x7f\r\n []/x2'), max_size=20).map(
    bytes
)
wild_value = wild.map(lambda value: value.replace(b"\r", b"\0").replace(b"\n", b"\0"))


def unescaped(text: str, mark: str) -> bytes:
    """Undo `\\xHH` or `#HH`, written apart from the code under test."""
    pieces = text.split(mark)
    return pieces[0].encode("ascii") + b"".join(
        bytes([int(piece[:2], 16)]) + piece[2:].encode("ascii") for piece in pieces[1:]
    )


class Formats(SynchronousTestCase):
    """What each format says about one request."""

    def test_combined(self) -> None:
        self.assertEqual(
            formatter("combined", ZONE)(RECORD),
            '192.0.2.1 - - [03/Feb/2026:04:05:06 -0730] "GET /a?b=1 HTTP/1.1" 200 1024 '
            '"https://a.example/?q=1" "Mozilla/5.0 (X11)"',
        )

    def test_haproxy(self) -> None:
        self.assertEqual(
            formatter("haproxy", ZONE)(RECORD),
            "192.0.2.1:54321 [03/Feb/2026:04:05:06.539] shop~ app/app1 1/0/2/12/250 200 1234 - - "
            '---- 31/31/9/9/0 0/0 "GET /a?b=1 HTTP/1.1"',
        )

    def test_haproxy_as_haproxy_wrote_it(self) -> None:
        """Lines that HAProxy 2.6.12 itself wrote for such requests."""
        day = datetime(2026, 11, 22, 23, 8, tzinfo=UTC).timestamp()
        line = formatter("haproxy", UTC)
        common = ("127.0.0.1", 41668, 80, False)
        relayed = Record(
            day + 47.2595, *common, b"GET /a HTTP/1.1", b"", 200, 51, 2,
            "shop", "app", "app1", "cookie", 0.0, 0.0, 0.0001, 0.0502, 0.0503, 0, "--VN", 1, 0,
        )  # fmt: skip
        self.assertEqual(
            line(relayed),
            "127.0.0.1:41668 [22/Nov/2026:23:08:47.209] shop app/app1 0/0/0/50/50 200 51 - - "
            '--VN 1/1/0/0/0 0/0 "GET /a HTTP/1.1"',
        )
        denied = Record(
            day + 47.3115, *common, b"GET /deny HTTP/1.1", b"", 403, 192, 93,
            "shop", None, None, "-", 0.0, -1, -1, -1, 0.0, 0, "PR", 1, 0,
        )  # fmt: skip
        self.assertEqual(
            line(denied),
            "127.0.0.1:41668 [22/Nov/2026:23:08:47.311] shop shop/<NOSRV> 0/-1/-1/-1/0 403 192 "
            '- - PR-- 1/1/0/0/0 0/0 "GET /deny HTTP/1.1"',
        )
        late = Record(
            day + 48.3145, *common, b"", b"", 408, 0, 0,
            "shop", None, None, "-", -1, -1, -1, -1, 1.0022, 0, "cR", 1, 0,
        )  # fmt: skip
        self.assertEqual(
            line(late),
            "127.0.0.1:41668 [22/Nov/2026:23:08:47.312] shop shop/<NOSRV> -1/-1/-1/-1/1002 408 0 "
            '- - cR-- 1/1/0/0/0 0/0 "<BADREQ>"',
        )

    def test_haproxy_without_site(self) -> None:
        record = RECORD._replace(site=None, pool=None, backend=None)
        match = HAPROXY.fullmatch(formatter("haproxy", ZONE)(record))
        assert match is not None
        self.assertEqual((match["ft"], match["b"], match["s"]), ("443~", "443~", "<NOSRV>"))

    def test_haproxy_reroute(self) -> None:
        """A `+` before the retries says that another server was taken."""
        match = HAPROXY.fullmatch(
            formatter("haproxy", ZONE)(RECORD._replace(reason="reroute", retries=2))
        )
        assert match is not None
        self.assertEqual(match["rc"], "+2")

    def test_haproxy_names_are_one_field(self) -> None:
        """No name from the configuration adds a field."""
        record = RECORD._replace(site="a b", pool='q"\n', backend="é")
        match = HAPROXY.fullmatch(formatter("haproxy", ZONE)(record))
        assert match is not None
        self.assertEqual((match["ft"], match["b"], match["s"]), ("a#20b~", "q#22#0A", "#C3#A9"))

    def test_json(self) -> None:
        self.assertEqual(
            list(json.loads(formatter("json", ZONE)(RECORD)).items()),
            [
                ("time", "2026-02-03T11:35:06.789Z"),
                ("client", "192.0.2.1"),
                ("client_port", 54321),
                ("port", 443),
                ("tls", True),
                ("request", "GET /a?b=1 HTTP/1.1"),
                ("status", 200),
                ("bytes", 1234),
                ("body_bytes", 1024),
                ("site", "shop"),
                ("pool", "app"),
                ("backend", "app1"),
                ("reason", "cookie"),
                ("head_time", 0.001),
                ("queue_time", 0.0),
                ("connect_time", 0.002),
                ("response_time", 0.0125),
                ("total_time", 0.25),
                ("retries", 0),
                ("termination", "--"),
                ("connections", 31),
                ("backend_connections", 9),
                ("referer", "https://a.example/?q=1"),
                ("user_agent", "Mozilla/5.0 (X11)"),
            ],
        )

    def test_nothing_happened(self) -> None:
        """A client that connected and went away: no request, no status, no timer."""
        record = Record(
            ENDED, "::1", 1, 80, False, b"", b"", -1, 0, 0,
            None, None, None, "-", -1, -1, -1, -1, -1, 0, "CR", 1, 0,
        )  # fmt: skip
        self.assertEqual(
            formatter("combined", ZONE)(record),
            '::1 - - [03/Feb/2026:04:05:06 -0730] "-" 000 0 "-" "-"',
        )
        self.assertEqual(
            formatter("haproxy", ZONE)(record),
            "::1:1 [03/Feb/2026:04:05:06.789] 80 80/<NOSRV> -1/-1/-1/-1/-1 -1 0 - - CR-- "
            '1/1/0/0/0 0/0 "<BADREQ>"',
        )
        values = json.loads(formatter("json", ZONE)(record))
        nothing = {key for key, value in values.items() if value is None}
        self.assertEqual(
            nothing,
            {
                "request", "status", "site", "pool", "backend", "head_time", "queue_time",
                "connect_time", "response_time", "total_time", "referer", "user_agent",
            },
        )  # fmt: skip
        self.assertIs(values["tls"], False)

    def test_local_time_without_zone(self) -> None:
        match = COMBINED.fullmatch(formatter("combined")(RECORD))
        assert match is not None
        at = datetime.strptime(match["t"], "%d/%b/%Y:%H:%M:%S %z")
        self.assertEqual(at.timestamp(), int(ENDED))

    def test_each_second_has_its_own_date(self) -> None:
        """Kept dates are the right ones, also after more seconds than are kept."""
        line = formatter("combined", UTC)
        for _ in range(2):
            for second in range(0, 3 * SECONDS_KEPT, 3):
                match = COMBINED.fullmatch(line(RECORD._replace(ended=ENDED + second)))
                assert match is not None
                at = datetime.strptime(match["t"], "%d/%b/%Y:%H:%M:%S %z")
                self.assertEqual(at.timestamp(), int(ENDED + second))

    def test_what_is_kept_is_bounded(self) -> None:
        for kept, limit in (
            (_Kept(str), SECONDS_KEPT),
            (_Names(), NAMES_KEPT),
            (_Literals(), NAMES_KEPT),
        ):
            for number in range(2 * limit + 1):
                key: Any = number if isinstance(kept, _Kept) else str(number)
                self.assertIn(str(number), kept[key])
                self.assertLessEqual(len(kept), limit)

    def test_many_names(self) -> None:
        """More names than are kept still come out right."""
        for name, key in (("haproxy", None), ("json", "backend")):
            line = formatter(name, UTC)
            for number in range(NAMES_KEPT + 2):
                text = line(RECORD._replace(backend=f"b{number}"))
                if key is None:
                    match = HAPROXY.fullmatch(text)
                    found = match and match["s"]
                else:
                    found = json.loads(text)[key]
                self.assertEqual(found, f"b{number}")

    def test_unknown_format(self) -> None:
        error = self.assertRaises(ValueError, formatter, "common")
        self.assertEqual(
            str(error), "access log: format: expected combined, haproxy, json, got 'common'"
        )


class Header(SynchronousTestCase):
    """Looking for one header in the lines as received."""

    def found(self, head: bytes) -> str | None:
        return header(head, head.lower(), b"\nreferer:")

    def test_places(self) -> None:
        for head, value in (
            (b"Referer: a\r\nHost: x\r\n\r\n", "a"),
            (b"GET / HTTP/1.1\r\nHost: x\r\nreferer:a\r\n\r\n", "a"),
            (b"Host: x\r\nREFERER:\ta b \r\n\r\n", "a b"),
            (b"Host: x\r\nReferer: a", "a"),
            (b"Host: x\r\nReferer:\r\nA: b\r\n\r\n", ""),
            (b"Host: x\r\nReferer: 1\r\nReferer: 2\r\n\r\n", "1"),
            (b"Referer: 1\r\nReferer: 2\r\n\r\n", "1"),
            (b"Host: x\r\nX-Referer: a\r\n\r\n", None),
            (b"Host: Referer: a\r\n\r\n", None),
            (b"GET /Referer: HTTP/1.1\r\n\r\n", None),
            (b"", None),
        ):
            self.assertEqual(self.found(head), value, head)


class Injection(SynchronousTestCase):
    """No bytes of a client break a line or add a field."""

    @given(wild, wild_value, wild_value)
    def test_combined(self, request: bytes, referer: bytes, agent: bytes) -> None:
        head = b"Host: x\r\nReferer: " + referer + b"\r\nUser-Agent:" + agent + b"\r\n\r\n"
        line = formatter("combined", UTC)(RECORD._replace(request=request, head=head))
        self.assertTrue(line.isascii() and line.isprintable())
        match = COMBINED.fullmatch(line)
        assert match is not None, line
        self.assertEqual(unescaped(match["r"], "\\x"), request or b"-")
        self.assertEqual(unescaped(match["referer"], "\\x"), referer.strip(b" \t"))
        self.assertEqual(unescaped(match["agent"], "\\x"), agent.strip(b" \t"))

    @given(wild)
    def test_haproxy(self, request: bytes) -> None:
        line = formatter("haproxy", UTC)(RECORD._replace(request=request))
        self.assertTrue(line.isascii() and line.isprintable())
        match = HAPROXY.fullmatch(line)
        assert match is not None, line
        self.assertEqual(unescaped(match["r"], "#"), request or b"<BADREQ>")

    @given(wild, wild_value, wild_value, st.text(), st.text())
    def test_json(self, request: bytes, referer: bytes, agent: bytes, site: str, pool: str) -> None:
        head = b"Host: x\r\nReferer: " + referer + b"\r\nUser-Agent:" + agent + b"\r\n\r\n"
        record = RECORD._replace(request=request, head=head, site=site, pool=pool)
        line = formatter("json", UTC)(record)
        self.assertTrue(line.isascii() and line.isprintable())
        values = json.loads(line)
        self.assertEqual(values["request"], request.decode("latin-1") or None)
        self.assertEqual(values["referer"], referer.strip(b" \t").decode("latin-1"))
        self.assertEqual(values["user_agent"], agent.strip(b" \t").decode("latin-1"))
        self.assertEqual((values["site"], values["pool"]), (site, pool))

    def test_each_byte(self) -> None:
        """All 256 bytes in each place, without luck."""
        for byte in (bytes([number]) for number in range(256)):
            value = byte.strip(b" \t\r\n")
            head = b"Host: x\r\nReferer: " + byte + b"\r\nUser-Agent: " + byte + b"\r\n\r\n"
            record = RECORD._replace(request=byte, head=head)
            lines = {name: formatter(name, UTC)(record) for name in FORMATS}
            for line in lines.values():
                self.assertTrue(line.isascii() and line.isprintable(), line)
            combined = COMBINED.fullmatch(lines["combined"])
            haproxy = HAPROXY.fullmatch(lines["haproxy"])
            assert combined is not None and haproxy is not None, lines
            self.assertEqual(unescaped(combined["r"], "\\x"), byte)
            self.assertEqual(unescaped(combined["referer"], "\\x"), value)
            self.assertEqual(unescaped(combined["agent"], "\\x"), value)
            self.assertEqual(unescaped(haproxy["r"], "#"), byte)
            values = json.loads(lines["json"])
            self.assertEqual(values["request"], byte.decode("latin-1"))
            self.assertEqual(values["referer"], value.decode("latin-1"))
            self.assertEqual(values["user_agent"], value.decode("latin-1"))

    def test_backslash(self) -> None:
        """No format leaves one that a reader could take for an escape."""
        record = RECORD._replace(request=b"GET /\\ HTTP/1.1")
        self.assertIn('"GET /\\x5C HTTP/1.1"', formatter("combined", UTC)(record))
        self.assertIn('"GET /#5C HTTP/1.1"', formatter("haproxy", UTC)(record))
        self.assertIn('"GET /\\\\ HTTP/1.1"', formatter("json", UTC)(record))

    @given(wild)
    def test_any_head_gives_one_line(self, head: bytes) -> None:
        for name in FORMATS:
            line = formatter(name, UTC)(RECORD._replace(head=head))
            self.assertTrue(line.isascii() and line.isprintable(), name)
