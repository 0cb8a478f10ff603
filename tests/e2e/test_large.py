"""Bodies of 1 GiB, both ways, plain and over TLS, in constant memory."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time

import pytest
from clients import curl, curl_command, rows, status
from parts import ENV, HERE, wait_until

MIB = 1 << 20
GIB = 1024  # MiB
#: Seconds for one transfer: 3 MiB/s would do.
TRANSFER = 400
#: The interpreter with Twisted and OpenSSL takes about half of it.
MEMORY = 150 * MIB

GENERATOR = [sys.executable, str(HERE / "generator.py")]


@pytest.fixture(scope="module")
def web(shared_rig):
    """nginx with a file of 1 GiB as pool `files`, a demo backend as pool `app`, DLBA before."""
    files = shared_rig.nginx("files", "")
    path = shared_rig.folder / "01-files" / "www" / "large.bin"
    with path.open("wb") as out:
        done = subprocess.run(
            [*GENERATOR, str(GIB)], stdout=out, stderr=subprocess.PIPE, timeout=TRANSFER, check=True
        )
    echo = shared_rig.demo_backend("echo")
    late = shared_rig.web_application("late")
    sites = [
        {"hosts": ["*"], "paths": ["/late", "/go"], "pool": "late", "schedule": "connections"},
        {"hosts": ["*"], "paths": ["/large.bin"], "pool": "files", "schedule": "connections"},
        {"hosts": ["*"], "default": True, "pool": "app", "schedule": "connections"},
    ]
    node = shared_rig.node({"files": [files], "app": [echo], "late": [late]}, sites)
    yield node, path, done.stderr.decode().split()[-1]
    path.unlink()


def check_node(node, pool):
    """Nothing is left of the transfer, and it took no memory."""
    assert node.process.memory() < MEMORY
    wait_until(
        "no open connection",
        lambda: not any(r["open_connections"] for r in rows(node, pool).values()),
    )
    wait_until("no client", lambda: status(node)["counters"]["open_clients"] == 0)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_download(web, scheme):
    node, _, expected = web
    url = f"{getattr(node, scheme)}/large.bin"
    command = curl_command("-k", "--fail", "--max-time", str(TRANSFER), url)
    digest = hashlib.sha256()
    size = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENV) as process:
        while part := process.stdout.read(MIB):
            digest.update(part)
            size += len(part)
    assert (process.returncode, size) == (0, GIB * MIB)
    assert digest.hexdigest() == expected
    check_node(node, "files")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_upload_with_its_length(web, scheme):
    node, path, expected = web
    args = ("-T", str(path), "-H", "X-Test: length")
    reply = curl(f"{getattr(node, scheme)}/echo", *args, seconds=TRANSFER)
    got = reply.json()
    assert (reply.status, got["method"]) == (200, "PUT")
    assert reply.sent_values("Content-Length") == [str(GIB * MIB)]
    assert reply.sent_values("Transfer-Encoding") == []
    assert (got["body_length"], got["body_sha256"]) == (GIB * MIB, expected)
    check_node(node, "app")


@pytest.mark.parametrize(("scheme", "mebibytes"), [("http", GIB), ("https", GIB // 4)])
def test_a_chunked_upload_from_a_pipe(web, scheme, mebibytes):
    node = web[0]
    url = f"{getattr(node, scheme)}/echo"
    command = curl_command("-k", "--fail", "--max-time", str(TRANSFER), "-T", "-", url)
    with subprocess.Popen(
        [*GENERATOR, str(mebibytes)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as source:
        done = subprocess.run(
            command, stdin=source.stdout, capture_output=True, env=ENV, timeout=2 * TRANSFER
        )
        source.stdout.close()
        expected = source.stderr.read().decode().split()[-1]
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    headers = {name.lower(): value for name, value in got["headers"]}
    assert headers["transfer-encoding"] == "chunked"
    assert "content-length" not in headers
    assert (got["body_length"], got["body_sha256"]) == (mebibytes * MIB, expected)
    check_node(node, "app")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_slow_client_that_gives_up(web, scheme):
    node = web[0]
    url = f"{getattr(node, scheme)}/large.bin"
    before = status(node)["counters"]["requests_aborted"]
    command = curl_command("-k", "--limit-rate", "4M", "--max-time", "3", "-o", "/dev/null", url)
    done = subprocess.run(command, capture_output=True, env=ENV, timeout=TRANSFER)
    assert done.returncode == 28, done.stderr  # curl's time is up
    check_node(node, "files")
    assert status(node)["counters"]["requests_aborted"] == before + 1


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_backend_that_reads_late_stops_the_client(web, scheme):
    node, path, expected = web
    url = f"{getattr(node, scheme)}/late"
    command = curl_command("-k", "--max-time", str(TRANSFER), "-T", str(path), url)
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENV) as process:
        wait_until("it has begun", lambda: rows(node, "late")["late"]["open_connections"] == 1)
        # A proxy that took all it gets would hold hundreds of megabytes by then.
        time.sleep(2)
        assert node.process.memory() < MEMORY
        assert curl(f"{node.http}/go", "-X", "POST").status == 200
        said = process.stdout.read()
    assert process.returncode == 0
    assert json.loads(said) == [GIB * MIB, expected]
    check_node(node, "late")


def test_a_small_chunked_upload_gets_a_length(web):
    reply = curl(f"{web[0].http}/echo", "-T", "-", data=b"0123456789" * 1000)
    assert reply.sent_values("Content-Length") == ["10000"]
    assert reply.sent_values("Transfer-Encoding") == []
    assert reply.json()["body_sha256"] == hashlib.sha256(b"0123456789" * 1000).hexdigest()
