"""`twistd dlba --demo`: what its banner promises, and that nothing stays behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from pathlib import Path

import pytest
from clients import curl, curls
from parts import ENV, TRIES, TWISTD, EndedError, is_free, program, wait_until

#: The contract says 3 s for a warm start; a busy machine may take longer.
READY = 10.0
PORTS = (8080, 8443, 9080)


@pytest.fixture
def demo(rig, tmp_path):
    """The demo's process, ready, and the folder that holds its temporary files."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [*TWISTD, "-n", "--pidfile=", "dlba", "--demo"]
    if os.geteuid() == 0:
        # It must need none of root's powers.
        command = [program("setpriv", "util-linux"), "--bounding-set=-all", "--", *command]
    for _ in range(TRIES):
        wait_until("the demo's ports", lambda: all(is_free(port) for port in PORTS))
        begun = time.monotonic()
        process = rig.run("demo", command, env={**ENV, "TMPDIR": str(temporary)})
        # Somebody else on this machine may show the demo, too.
        with contextlib.suppress(EndedError):
            process.until_it_says("# the status tables")
            break
        assert "Address already in use" in process.said
    assert time.monotonic() - begun < READY
    process.temporary = temporary
    return process


def test_the_banner_names_the_addresses_and_its_lines_work(demo):
    said = demo.said
    for address in ("http://127.0.0.1:8080/", "https://127.0.0.1:8443/", "http://127.0.0.1:9080/"):
        assert address in said
    tries = re.findall(r"  curl (.*?) +#", said)
    assert len(tries) >= 3
    for line in tries:
        url = line.split()[-1]
        assert curl(url).status == 200, line
    assert set(re.findall(r"app\d", said)) == {"app1", "app2", "app3"}
    if os.geteuid() == 0:
        status = Path(f"/proc/{demo.pid}/status").read_text()
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)


def test_its_cookie_keeps_the_backend_over_http_and_https(demo, tmp_path):
    new = {curl("http://127.0.0.1:8080/").backend for _ in range(6)}
    assert new == {"app1", "app2", "app3"}
    for number, first in enumerate(("http://127.0.0.1:8080/", "https://127.0.0.1:8443/")):
        jar = tmp_path / f"jar{number}"
        reply = curl(first, "-c", str(jar))
        assert reply.backend in reply.body.decode()
        assert list(reply.cookies) == ["DLBA"]
        urls = ["http://127.0.0.1:8080/a", "https://127.0.0.1:8443/b?c=d"] * 4
        again = curls(urls, "-b", str(jar))
        assert {other.backend for other in again} == {reply.backend}
        assert not any(other.cookies for other in again)


def test_static_urls_are_spread_and_each_stays(demo):
    urls = [f"http://127.0.0.1:8080/static/{number}.css" for number in range(30)]
    first, second = (curls(urls), curls(urls))
    assert [reply.backend for reply in first] == [reply.backend for reply in second]
    assert {reply.backend for reply in first} == {"app1", "app2", "app3"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_nothing_stays(demo, number):
    assert list(demo.temporary.iterdir())
    jar = demo.temporary.parent / "jar"
    assert curl("https://127.0.0.1:8443/", "-c", str(jar)).status == 200
    demo.signal(number)
    assert demo.wait(20) == 0
    assert not list(demo.temporary.iterdir())
    assert all(is_free(port) for port in PORTS)
    assert "Traceback" not in demo.said
