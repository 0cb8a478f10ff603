"""What curl can ask for that isn't everyday."""

from __future__ import annotations

import json

import pytest
from clients import curl, curls, raw


@pytest.fixture(scope="module")
def web(shared_rig):
    """A backend and DLBA, which refuses bodies over 1 MiB."""
    site = {"hosts": ["*"], "default": True, "pool": "app", "max_body": "1MiB"}
    return shared_rig.node([shared_rig.demo_backend("app1")], [site], timeouts={"response": 2})


def test_an_offer_of_http_2_or_websocket_is_answered_in_http_1_1(web):
    for args in (
        ["--http2"],
        [
            "-H",
            "Connection: Upgrade",
            "-H",
            "Upgrade: websocket",
            "-H",
            "Sec-WebSocket-Version: 13",
        ],
    ):
        for base in (web.http, web.https):
            reply = curl(f"{base}/echo", *args)
            assert (reply.status, reply.info["http_version"]) == (200, "1.1")
            for name in ("Upgrade", "HTTP2-Settings"):
                assert reply.sent_values(name) == []
            assert reply.sent_values("Connection") == ["close"]


def test_an_absolute_target_says_which_host_is_meant(web):
    target = "http://www.example.com/echo?x=y"
    reply = curl(web.http, "--request-target", target, "-H", "Host: other.example.com")
    assert reply.json()["target"] == "/echo?x=y"
    assert reply.sent_values("Host") == ["www.example.com"]


@pytest.mark.parametrize(
    ("args", "status"),
    [
        (["-X", "TRACE"], 405),
        (["-X", "CONNECT"], 405),
        (["--request-target", "*"], 400),
        (["-H", "Host:"], 400),
        (["-H", "Expect: 200-ok", "-d", "x"], 417),
        (["-H", "Transfer-Encoding: gzip, chunked", "-d", "x"], 501),
        (["-H", f"X-Long: {'a' * 70_000}"], 431),
        (["--request-target", f"/{'a' * 20_000}"], 414),
    ],
)
def test_a_refusal_says_why(web, args, status):
    for base in (web.http, web.https):
        reply = curl(f"{base}/", *args)
        assert reply.status == status
        assert str(status).encode() in reply.body
        assert reply.backend is None
        assert reply.header("Cache-Control") == "no-store"


@pytest.mark.parametrize("args", [[], ["-H", "Expect:"], ["-H", "Transfer-Encoding: chunked"]])
def test_too_large_a_body_is_refused_whoever_sends_on(web, tmp_path, args):
    # curl sees the answer although most of its body was never read.
    (tmp_path / "large").write_bytes(bytes(3_000_000))
    (tmp_path / "small").write_bytes(bytes(1_000_000))
    for base in (web.http, web.https):
        assert curl(f"{base}/echo", "-T", str(tmp_path / "large"), *args).status == 413
        reply = curl(f"{base}/echo", "-T", str(tmp_path / "small"), *args)
        assert reply.json()["body_length"] == 1_000_000


def test_a_slow_page_is_504_and_the_connection_stays(web):
    for base in (web.http, web.https):
        replies = curls([f"{base}/slow/30", f"{base}/"])
        assert [reply.status for reply in replies] == [504, 200]
        assert [reply.info["num_connects"] for reply in replies] == [1, 0]


def test_a_pipeline_is_answered_in_order(web):
    targets = ["/echo?1", "/slow/0.3", "/echo?2", "/bytes/300000", "/chunked/70000", "/echo?3"]
    data = "".join(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n" for target in targets)
    data += "POST /echo?4 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    data += "GET /echo?5 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer = raw(web.port, data.encode())
    seen = [json.loads(line.partition(b": ")[2].rstrip(b",")) for line in answer.split(b"\n")
            if line.startswith(b' "target": ')]  # fmt: skip
    assert seen == [f"/echo?{number}" for number in (1, 2, 3, 4, 5)]
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == len(targets) + 2
