"""DLBA before a Python web application whose sessions live in the memory of three processes."""

from __future__ import annotations

import hashlib
import http.cookiejar
import subprocess
import urllib.error
import urllib.request

import pytest
from clients import curl, curl_command, curls, rows
from parts import ENV, LOCAL, WAIT

SITE = {
    "hosts": ["*"],
    "default": True,
    "pool": "app",
    "persistence": {"session_cookie": "SID"},
}


@pytest.fixture(scope="module")
def shop(shared_rig):
    """Three processes of the application, and DLBA that follows its session cookie."""
    backends = [shared_rig.web_application(f"app{number}") for number in (1, 2, 3)]
    return shared_rig.node(backends, [SITE])


@pytest.fixture
def browser(tmp_path):
    """A function like `curl` that keeps its cookies in a jar, as a browser does."""

    def browse(url, *args, jar="jar", **more):
        file = str(tmp_path / jar)
        return curl(url, "-b", file, "-c", file, *args, **more)

    browse.jar = lambda name="jar": {
        fields[5]: fields[6]
        for line in (tmp_path / name).read_text().splitlines()
        if len(fields := line.split("\t")) == 7
    }
    return browse


def test_a_login_stays_with_one_backend_over_http_and_https(shop, browser):
    before = {name: row["cookie_groups"] for name, row in rows(shop).items()}
    used = []
    for number in range(6):
        jar = f"jar{number}"
        reply = browser(f"{shop.https}/login", "-d", f"user=user{number}", "-L", jar=jar)
        # -L follows the redirect to /me, where only that process knows the session.
        assert (reply.status, reply.body.decode()) == (200, f"user{number}")
        assert reply.info["num_redirects"] == 1
        assert reply.info["url_effective"] == f"{shop.https}/me"
        assert set(browser.jar(jar)) == {"SID", "DLBA"}
        used.append(reply.backend)
    assert set(used) == {"app1", "app2", "app3"}
    for number, backend in enumerate(used):
        for base in (shop.http, shop.https) * 3:
            reply = browser(f"{base}/me", jar=f"jar{number}")
            assert (reply.body.decode(), reply.backend) == (f"user{number}", backend)
            assert not reply.cookies
    after = {name: row["cookie_groups"] for name, row in rows(shop).items()}
    assert {name: after[name] - before[name] for name in after} == {
        name: used.count(name) for name in after
    }


def test_our_cookie_begins_and_ends_with_the_session(shop, browser):
    reply = curl(f"{shop.http}/me")
    assert (reply.status, reply.cookies) == (403, {})
    reply = browser(f"{shop.http}/login", "-d", "user=ann")
    assert reply.status == 303
    names = [line.partition("=")[0] for line in reply.headers["set-cookie"]]
    assert names == ["SID", "DLBA"]
    assert reply.cookies["DLBA"].split("; ")[1:] == ["Path=/", "HttpOnly"]
    assert "private" in reply.header("Cache-Control")
    reply = browser(f"{shop.http}/logout", "-X", "POST")
    assert reply.headers["set-cookie"] == [
        "SID=; Path=/; Max-Age=0",
        "DLBA=; Path=/; Max-Age=0; HttpOnly",
    ]


def test_a_browser_holds_both_cookies_or_none(shop):
    # Python's cookie jar: that of curl 7.88 keeps the first of two cookies deleted at once.
    jar = http.cookiejar.CookieJar()
    opener = urllib.request.build_opener(
        urllib.request.HTTPCookieProcessor(jar), urllib.request.ProxyHandler({})
    )
    for _ in range(3):
        with opener.open(f"{shop.http}/login", b"user=eve", timeout=WAIT) as answer:
            assert answer.read() == b"eve"
        assert {cookie.name for cookie in jar} == {"SID", "DLBA"}
        with pytest.raises(urllib.error.HTTPError, match="403"):
            opener.open(f"{shop.http}/logout", b"", timeout=WAIT)
        assert not list(jar)


def test_forms_and_redirects_on_one_kept_connection(shop, browser, tmp_path):
    browser(f"{shop.https}/login", "-d", "user=bob")
    items = ["bread & butter", "100 % juice", "käse"]
    for item in items:
        reply = browser(f"{shop.https}/basket", "--data-urlencode", f"item={item}", "-L")
        assert reply.status == 200
        assert reply.info["num_connects"] <= 1
    assert reply.body.decode().splitlines() == items
    jar = str(tmp_path / "jar")
    replies = curls([f"{shop.https}/basket", f"{shop.https}/me"] * 5, "-b", jar)
    assert [reply.info["num_connects"] for reply in replies] == [1] + [0] * 9
    assert {reply.status for reply in replies} == {200}
    assert replies[1].body == b"bob"


@pytest.mark.parametrize(
    ("size", "args"),
    [
        (600_000, []),
        (600_000, ["-H", "Expect: 100-continue"]),
        (0, []),
        # wsgiref wants a length: DLBA gives one to what it has read whole.
        (100_000, ["-H", "Transfer-Encoding: chunked"]),
    ],
)
def test_a_form_with_files_reaches_the_application_whole(shop, tmp_path, size, args):
    data = (b"\x00\r\n--\xff" * (size // 6 + 1))[:size]
    (tmp_path / "data.bin").write_bytes(data)
    (tmp_path / "note.txt").write_bytes(b"a note\r\n")
    form = ["-F", f"file=@{tmp_path}/data.bin", "-F", f"note=@{tmp_path}/note.txt;type=text/plain"]
    for base in (shop.http, shop.https):
        reply = curl(f"{base}/upload", *form, "-F", "word=hello", *args)
        assert reply.status == 200
        got = reply.json()
        assert got["file"] == ["data.bin", size, hashlib.sha256(data).hexdigest()]
        assert got["note"][:2] == ["note.txt", 8]
        assert got["word"][1] == 5


def test_a_page_streams_as_it_is_written(shared_rig):
    backend = shared_rig.web_application("streaming")
    node = shared_rig.node([backend])
    for base in (node.http, node.https):
        for version in ("--http1.1", "--http1.0"):
            command = curl_command("-k", "-N", version, "--max-time", str(WAIT), f"{base}/stream")
            with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENV) as process:
                # The second line is written only after the first one was seen here.
                assert process.stdout.readline() == b"first\n"
                assert curl(f"{node.http}/go", "-X", "POST").status == 200
                assert process.stdout.read() == b"second\n"
            assert process.returncode == 0


def test_a_session_from_before_dlba_stays_together(shop):
    # No cookie of ours: the session's id decides, the same for each connection.
    for number in range(8):
        urls = [f"{shop.http}/me", f"{shop.https}/me"] * 2
        replies = [curl(url, "-H", f"Cookie: SID=old-session-{number}") for url in urls]
        assert len({reply.backend for reply in replies}) == 1
        assert not any(reply.cookies for reply in replies)


def test_a_forged_cookie_neither_routes_nor_arrives(shared_rig):
    backends = [shared_rig.demo_backend(name) for name in ("one", "two")]
    node = shared_rig.node(backends)
    cookie = "Cookie: a=b; DLBA=x.AAAAAAAAAAAAAAAAAAAAAA; c=d"
    replies = [curl(f"{node.http}/echo", "-H", cookie) for _ in range(4)]
    assert {reply.backend for reply in replies} == {"one", "two"}
    for reply in replies:
        assert list(reply.cookies) == ["DLBA"]
        assert reply.sent_values("Cookie") == ["a=b; c=d"]


def test_the_backend_learns_who_asks_and_how(shared_rig):
    node = shared_rig.node([shared_rig.demo_backend("one")])
    lies = ["-H", "X-Forwarded-For: 192.0.2.1", "-H", "X-Real-IP: 192.0.2.1"]
    lies += ["-H", "Forwarded: for=192.0.2.1", "-H", "X-Forwarded-Proto: gopher"]
    hops = [
        "-H",
        "Connection: X-Hop",
        "-H",
        "X-Hop: 1",
        "-H",
        "Keep-Alive: 5",
        "-H",
        "TE: trailers",
    ]
    for scheme in ("http", "https"):
        base = getattr(node, scheme)
        reply = curl(
            f"{base}/echo", *lies, *hops, "-H", "Host: shop.example.com", "-H", "x-CaSe: Kept"
        )
        assert reply.sent_values("X-Forwarded-For") == [LOCAL]
        assert reply.sent_values("X-Forwarded-Proto") == [scheme]
        assert reply.sent_values("X-Forwarded-Host") == ["shop.example.com"]
        assert reply.sent_values("Host") == ["shop.example.com"]
        for name in ("Forwarded", "X-Real-IP", "X-Hop", "Keep-Alive", "TE"):
            assert reply.sent_values(name) == []
        assert ("x-CaSe", "Kept") in reply.sent()
