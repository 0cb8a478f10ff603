"""The access log in its three formats, each for the same requests, against what the client saw."""

from __future__ import annotations

import json
import re
import signal
import time

import pytest
from clients import curl, raw
from parts import wait_until

#: Apache's documentation of `combined`, HAProxy's of `option httplog`.
COMBINED = re.compile(
    r"(?P<client>\S+) - - \[(?P<date>\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] "
    r'"(?P<request>[^"]*)" (?P<status>\d{3}) (?P<body>\d+) "(?P<referer>[^"]*)" "(?P<agent>[^"]*)"'
)
HAPROXY = re.compile(
    r"(?P<client>\S+):(?P<port>\d+) "
    r"\[(?P<date>\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d\.\d{3})\] "
    r"(?P<frontend>\S+) (?P<pool>[^/ ]+)/(?P<server>\S+) "
    r"(?P<times>-?\d+/-?\d+/-?\d+/-?\d+/\d+) (?P<status>-?\d+) (?P<bytes>\d+) - - "
    r"(?P<state>\S{4}) \d+/\d+/\d+/\d+/\+?\d+ \d+/\d+ \"(?P<request>[^\"]*)\""
)
FORMATS = ("combined", "haproxy", "json")

SITE = {"hosts": ["127.0.0.1"], "pool": "app"}
#: Path, arguments of curl, over TLS, and whether a backend answers.
REQUESTS = [
    ("/", ["-A", "agent/1.0", "-e", "http://example.com/from"], False, True),
    ("/bytes/100000", ["-A", "agent/1.0"], True, True),
    ("/bytes/5000", ["-I"], False, True),
    ("/echo", ["-d", "user=ann&password=secret"], True, True),
    ("/status/503", [], False, True),
    ("/chunked/70000", ["--http1.0"], False, True),
    ("/elsewhere", ["-H", "Host: unknown.example.com"], False, False),
    ('/?q=%22"', ["-A", 'a "quoted\\" agent é'], False, True),
]


@pytest.fixture
def logs(rig):
    """One backend, and a node for each format."""
    backend = rig.demo_backend("app1")
    return {name: rig.node([backend], [SITE], log=name) for name in FORMATS}


def asked(node):
    """Ask all REQUESTS; (what curl saw, the request line) of each."""
    seen = []
    for path, args, tls, _ in REQUESTS:
        reply = curl((node.https if tls else node.http) + path, *args)
        method = reply.info["method"]
        version = "1.0" if "--http1.0" in args else "1.1"
        seen.append((reply, f"{method} {path} HTTP/{version}"))
    return seen


def fields(expression, lines):
    matches = [expression.fullmatch(line) for line in lines]
    assert all(matches), lines
    return [match.groupdict() for match in matches]


def test_combined(logs):
    node = logs["combined"]
    seen = asked(node)
    lines = node.log_lines(len(REQUESTS))
    assert len(lines) == len(REQUESTS)
    for (reply, request), got in zip(seen, fields(COMBINED, lines), strict=True):
        assert got["client"] == "127.0.0.1"
        assert got["request"] == request.replace('"', "\\x22")
        assert int(got["status"]) == reply.status
        assert int(got["body"]) == reply.info["size_download"]
        at = time.mktime(time.strptime(got["date"][:20], "%d/%b/%Y:%H:%M:%S"))
        assert abs(at - time.time()) < 120
    (first, *_), last = fields(COMBINED, lines), fields(COMBINED, lines)[-1]
    assert (first["referer"], first["agent"]) == ("http://example.com/from", "agent/1.0")
    assert last["agent"] == "a \\x22quoted\\x5C\\x22 agent \\xC3\\xA9"


def test_haproxy(logs):
    node = logs["haproxy"]
    seen = asked(node)
    lines = node.log_lines(len(REQUESTS))
    assert len(lines) == len(REQUESTS)
    for (reply, request), got, (_, _, tls, answered) in zip(
        seen, fields(HAPROXY, lines), REQUESTS, strict=True
    ):
        assert int(got["port"]) == reply.info["local_port"]
        assert got["request"] == request.replace('"', "#22")
        assert int(got["status"]) == reply.status
        assert int(got["bytes"]) == reply.info["size_download"] + reply.info["size_header"]
        assert got["frontend"].endswith("~") == tls
        times = [int(number) for number in got["times"].split("/")]
        if answered:
            assert (got["pool"], got["server"]) == ("app", "app1")
            assert got["state"] == "----"
            assert min(times) >= 0
            assert sum(times[:4]) <= times[4] + 4
        else:
            assert got["server"] == "<NOSRV>"
            assert got["state"] == "PR--"
            assert times[1:4] == [-1, -1, -1]


def test_json(logs):
    node = logs["json"]
    seen = asked(node)
    lines = node.log_lines(len(REQUESTS))
    assert len(lines) == len(REQUESTS)
    for (reply, request), line, (_, _, tls, answered) in zip(seen, lines, REQUESTS, strict=True):
        got = json.loads(line)
        assert (got["client"], got["client_port"]) == ("127.0.0.1", reply.info["local_port"])
        assert got["port"] == (node.tls_port if tls else node.port)
        assert (got["tls"], got["request"], got["status"]) == (tls, request, reply.status)
        assert got["body_bytes"] == reply.info["size_download"]
        assert got["bytes"] == reply.info["size_download"] + reply.info["size_header"]
        assert (got["backend"], got["pool"]) == (("app1", "app") if answered else (None, None))
        assert got["reason"] == ("least" if answered else "-")
        assert got["termination"] == ("--" if answered else "PR")
        assert got["retries"] == 0
        assert 0 <= got["total_time"] < 60
    assert json.loads(lines[0])["referer"] == "http://example.com/from"
    assert json.loads(lines[3])["referer"] is None
    assert "secret" not in "".join(lines)


def test_what_is_no_request_is_logged_too(logs):
    for data in (
        b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n",
        b"\x16\x03\x01\r\n\r\n",
        b"GET /\x01\r\n\r\n",
    ):
        for node in logs.values():
            assert raw(node.port, data).startswith(b"HTTP/1.1 400 ")
    (first, second, third) = fields(COMBINED, logs["combined"].log_lines(3))
    assert {first["status"], second["status"], third["status"]} == {"400"}
    assert first["request"] == "GET / HTTP/1.1"
    assert second["request"] == "\\x16\\x03\\x01"
    assert third["request"] == "GET /\\x01"
    got = [json.loads(line) for line in logs["json"].log_lines(3)]
    assert [line["request"] for line in got] == ["GET / HTTP/1.1", "\x16\x03\x01", "GET /\x01"]
    assert {line["termination"] for line in got} == {"PR"}
    got = fields(HAPROXY, logs["haproxy"].log_lines(3))
    assert [line["request"] for line in got] == ["GET / HTTP/1.1", "#16#03#01", "GET /#01"]


def test_the_log_tells_why_a_backend_was_chosen(rig, tmp_path):
    backends = {name: rig.demo_backend(name) for name in ("app1", "app2")}
    node = rig.node(list(backends.values()), log="json")
    jar = str(tmp_path / "jar")
    first = curl(f"{node.http}/", "-c", jar)
    curl(f"{node.https}/", "-b", jar)
    backends[first.backend].kill()
    moved = curl(f"{node.http}/", "-b", jar)
    got = [json.loads(line) for line in node.log_lines(3)]
    assert [line["reason"] for line in got] == ["least", "cookie", "reroute"]
    assert [line["retries"] for line in got] == [0, 0, 1]
    assert [line["backend"] for line in got] == [first.backend, first.backend, moved.backend]


def test_a_rotated_log_goes_on_in_a_new_file(rig):
    node = rig.node([rig.demo_backend("app1")], log="combined")
    curl(f"{node.http}/before")
    node.log_lines(1)
    old = node.access.rename(node.folder / "access.log.1")
    curl(f"{node.http}/between")
    node.process.signal(signal.SIGUSR1)
    wait_until("a new log", node.access.exists)
    curl(f"{node.http}/after")
    (line,) = node.log_lines(1)
    assert "GET /after " in line
    assert [COMBINED.fullmatch(line)["request"] for line in old.read_text().splitlines()] == [
        "GET /before HTTP/1.1",
        "GET /between HTTP/1.1",
    ]
    # The rest is written when the node ends, not a second later.
    curl(f"{node.http}/last")
    assert node.process.terminate() == 0
    assert "GET /last " in node.access.read_text().splitlines()[-1]
