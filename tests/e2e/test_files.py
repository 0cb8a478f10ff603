"""DLBA before nginx: files come through as nginx sends them."""

from __future__ import annotations

import gzip
import subprocess

import pytest
from clients import curl, curl_command, curls
from parts import ENV, WAIT

TEXT = "".join(f"line {number} of a text that compresses well\n" for number in range(4000))
BINARY = bytes(range(256)) * 512

#: Fields that the proxy may add or that differ from request to request.
OURS = {"set-cookie", "cache-control", "connection", "date"}

LOCATIONS = """
if_modified_since before;
gzip on; gzip_types text/plain; gzip_min_length 100; gzip_vary on;
location /old { return 301 /text.txt; }
location /teapot { return 418 "short and stout"; }
location /empty { return 204; }
"""


@pytest.fixture(scope="module")
def web(shared_rig):
    """nginx with a few files, and DLBA before it."""
    server = shared_rig.nginx("files", LOCATIONS)
    folder = shared_rig.folder / "01-files" / "www"
    assert folder.is_dir()
    (folder / "text.txt").write_text(TEXT)
    (folder / "data.bin").write_bytes(BINARY)
    (folder / "index.html").write_text("<h1>home</h1>\n")
    (folder / "a folder").mkdir()
    (folder / "nothing.bin").write_bytes(b"")
    return server, shared_rig.node([server])


def both(web, path, *args):
    """The reply of nginx itself, and those through DLBA over HTTP and HTTPS."""
    server, node = web
    direct = curl(server.url + path, *args)
    return direct, [curl(base + path, *args) for base in (node.http, node.https)]


@pytest.mark.parametrize(
    ("path", "args", "status"),
    [
        ("/", [], 200),
        ("/text.txt", [], 200),
        ("/data.bin", [], 200),
        ("/nothing.bin", [], 200),
        ("/data.bin", ["--http1.0"], 200),
        ("/data.bin", ["-I"], 200),
        ("/text.txt", ["-I", "-H", "Accept-Encoding: gzip"], 200),
        ("/data.bin", ["-r", "100-199"], 206),
        ("/data.bin", ["-r", "-50"], 206),
        ("/data.bin", ["-r", "999999999-"], 416),
        ("/text.txt", ["-H", "If-Modified-Since: Wed, 21 Oct 2099 07:28:00 GMT"], 304),
        ("/missing", [], 404),
        ("/missing", ["-I"], 404),
        ("/old?x=y", [], 301),
        ("/teapot", [], 418),
        ("/empty", [], 204),
        ("/text.txt", ["-X", "POST", "-d", "x=y"], 405),
        ("/%61%20folder/../data.bin", ["--path-as-is"], 200),
        ("/a%20folder", [], 301),
    ],
)
def test_an_answer_is_the_one_that_nginx_gives(web, path, args, status):
    direct, through = both(web, path, *args)
    assert direct.status == status
    for reply in through:
        assert reply.status == status
        assert reply.body == direct.body
        assert reply.info["size_download"] == len(direct.body)
        assert {name: value for name, value in reply.headers.items() if name not in OURS} == {
            name: value for name, value in direct.headers.items() if name not in OURS
        }
        assert reply.header("Date")
        assert list(reply.cookies) == ["DLBA"]


def test_several_ranges_come_as_nginx_puts_them_together(web):
    for reply in both(web, "/data.bin", "-r", "0-9,1000-1009")[1]:
        assert reply.status == 206
        boundary = reply.header("Content-Type").partition("boundary=")[2]
        parts = reply.body.split(f"--{boundary}".encode())
        bodies = [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts[1:-1]]
        assert bodies == [BINARY[0:10], BINARY[1000:1010]]


def test_an_etag_that_is_still_right_is_answered_with_304(web):
    for base in (web[1].http, web[1].https):
        url = f"{base}/data.bin"
        tag = curl(url).header("ETag")
        urls = [url] * 3
        for reply in curls(urls, "-H", f"If-None-Match: {tag}"):
            assert (reply.status, reply.body) == (304, b"")
            assert reply.header("ETag") == tag
        assert curl(url, "-H", 'If-None-Match: "other"').body == BINARY


def test_a_compressed_body_stays_byte_for_byte(web):
    direct, through = both(web, "/text.txt", "-H", "Accept-Encoding: gzip")
    assert gzip.decompress(direct.body).decode() == TEXT
    for reply in through:
        assert reply.header("Content-Encoding") == "gzip"
        assert reply.header("Vary") == "Accept-Encoding"
        assert reply.body == direct.body
    for reply in both(web, "/text.txt")[1]:
        assert reply.header("Content-Encoding") is None
        assert reply.body.decode() == TEXT


def test_one_connection_carries_answers_of_every_kind(web):
    server, node = web
    paths = ["/data.bin", "/missing", "/empty", "/nothing.bin", "/old", "/text.txt", "/"] * 3
    for base in (node.http, node.https):
        replies = curls([base + path for path in paths])
        assert [reply.status for reply in replies] == [200, 404, 204, 200, 301, 200, 200] * 3
        assert [reply.info["num_connects"] for reply in replies] == [1] + [0] * (len(paths) - 1)
        heads = curls([base + path for path in paths], "-I")
        assert [reply.info["num_connects"] for reply in heads] == [1] + [0] * (len(paths) - 1)
        assert [reply.header("Content-Length") for reply in heads] == [
            reply.header("Content-Length") for reply in curls([server.url + p for p in paths], "-I")
        ]


def test_http_1_0_keeps_its_connection_only_when_it_asks(web):
    node = web[1]
    urls = [f"{node.http}/data.bin"] * 3
    closed = curls(urls, "--http1.0")
    assert [reply.info["num_connects"] for reply in closed] == [1, 1, 1]
    kept = curls(urls, "--http1.0", "-H", "Connection: keep-alive")
    assert [reply.info["num_connects"] for reply in kept] == [1, 0, 0]
    assert {reply.body for reply in closed + kept} == {BINARY}


def test_a_verified_certificate_and_a_name(web):
    node = web[1]
    command = curl_command("--cacert", str(node.folder / "node.pem"), "--max-time", str(WAIT))
    url = f"https://localhost:{node.tls_port}/data.bin"
    done = subprocess.run([*command, "-4", url], capture_output=True, env=ENV, timeout=2 * WAIT)
    assert (done.returncode, done.stdout) == (0, BINARY), done.stderr
