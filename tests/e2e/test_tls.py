"""TLS as openssl's own client sees it."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import subprocess

import pytest
from clients import curl, status
from parts import ENV, LOCAL, WAIT, certificate, free_ports, program

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def web(shared_rig):
    """A backend and DLBA with its own certificate."""
    return shared_rig.node([shared_rig.demo_backend("app1")])


def s_client(node, *args, data=REQUEST):
    """What `openssl s_client` says, with its exit code."""
    command = [program("openssl", "openssl"), "s_client", "-connect", f"{LOCAL}:{node.tls_port}"]
    command += ["-CAfile", str(node.folder / "node.pem"), "-ign_eof", *args]
    return subprocess.run(command, input=data, capture_output=True, env=ENV, timeout=WAIT)


@pytest.mark.parametrize(("option", "version"), [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
def test_both_versions_answer_and_end_cleanly(web, option, version):
    done = s_client(
        web, option, "-verify_return_error", "-alpn", "h2,http/1.1", "-servername", "localhost"
    )
    said = done.stdout.decode()
    assert done.returncode == 0, done.stderr
    assert "HTTP/1.1 200 OK" in said
    assert "X-Backend: app1" in said
    assert "ALPN protocol: http/1.1" in said
    assert re.search(rf"^New, {re.escape(version)}, Cipher is (ECDHE|TLS)", said, re.MULTILINE)
    assert "Verify return code: 0 (ok)" in said
    # Without a close_notify s_client complains.
    assert b"unexpected eof" not in done.stderr
    assert said.rstrip().endswith("closed")


@pytest.mark.parametrize(
    "args",
    [
        ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"),
        ("-tls1", "-cipher", "ALL:@SECLEVEL=0"),
        ("-tls1_2", "-cipher", "AES128-SHA:AES256-SHA:AES128-GCM-SHA256"),
        ("-tls1_2", "-cipher", "DHE"),
    ],
)
def test_what_is_old_is_refused(web, args):
    before = status(web)["counters"]
    done = s_client(web, *args)
    assert done.returncode != 0
    assert b"HTTP/1.1" not in done.stdout
    after = status(web)["counters"]
    assert after["handshakes_failed"] == before["handshakes_failed"] + 1
    assert after["handshakes"] == before["handshakes"]


@pytest.mark.parametrize("option", ["-tls1_2", "-tls1_3"])
def test_a_session_is_resumed(web, tmp_path, option):
    session = str(tmp_path / "session.pem")
    before = status(web)["counters"]["handshakes_resumed"]
    first = s_client(web, option, "-sess_out", session)
    assert b"\nNew, TLSv1" in first.stdout
    second = s_client(web, option, "-sess_in", session)
    assert b"\nReused, TLSv1" in second.stdout
    assert b"HTTP/1.1 200 OK" in second.stdout
    assert status(web)["counters"]["handshakes_resumed"] == before + 1


def test_a_client_may_not_renegotiate_but_may_update_keys(web):
    # A line that begins with R or K is a command to s_client.
    for option, command, good in [("-tls1_2", b"R\n", False), ("-tls1_3", b"K\n", True)]:
        process = [program("openssl", "openssl"), "s_client", option]
        process += ["-connect", f"{LOCAL}:{web.tls_port}"]
        with subprocess.Popen(
            process,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=ENV,
        ) as running:
            said = b""
            while b"\n---\n" not in said or b"Verify return code" not in said:
                line = running.stdout.readline()
                assert line, said
                said += line
            running.stdin.write(command)
            running.stdin.flush()
            # The command is read alone, not as part of the request.
            while b"RENEGOTIATING" not in said and b"KEYUPDATE" not in said:
                line = running.stdout.readline()
                assert line, said
                said += line
            running.stdin.write(REQUEST.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
            running.stdin.flush()
            said += running.stdout.read()
        assert (b"HTTP/1.1 200 OK" in said) == good, said


def test_the_name_chooses_the_certificate(rig):
    backend = rig.demo_backend("app1")
    folder = rig.new_folder("certificates")
    pairs = []
    for name, host, kind in [
        ("shop", "shop.example.com", "ec"),
        ("blog", "blog.example.com", "rsa"),
        ("wild", "*.wild.example.com", "ec"),
    ]:
        certificate(folder, name, host, kind)
        pairs.append({"certificate": f"{folder}/{name}.pem", "key": f"{folder}/{name}.key"})
    (port,) = free_ports(1)
    listen = [{"port": port, "address": LOCAL, "tls": {"certificates": pairs}}]
    node = rig.node([backend], listen=listen)
    node.tls_port = port
    for host, name in [
        ("shop.example.com", "shop"),
        ("blog.example.com", "blog"),
        ("BLOG.example.com", "blog"),
        ("any.wild.example.com", "wild"),
        ("unknown.example.com", "shop"),
        (None, "shop"),
    ]:
        context = ssl.create_default_context(cafile=f"{folder}/{name}.pem")
        context.check_hostname = host is not None and host != "unknown.example.com"
        with socket.create_connection((LOCAL, port), timeout=WAIT) as sock:
            with context.wrap_socket(sock, server_hostname=host) as stream:
                stream.sendall(REQUEST)
                assert b"X-Backend: app1" in stream.read(65536)
    # All listeners are TLS: the cookie is for HTTPS alone.
    reply = curl(f"https://{LOCAL}:{port}/")
    assert reply.cookies["DLBA"].endswith("; Secure")


def test_plain_http_on_the_tls_port_harms_nobody(web):
    before = status(web)["counters"]["handshakes_failed"]
    with socket.create_connection((LOCAL, web.tls_port), timeout=WAIT) as sock:
        sock.sendall(REQUEST)
        with contextlib.suppress(ConnectionResetError):
            assert b"200 OK" not in sock.recv(65536)
    assert status(web)["counters"]["handshakes_failed"] == before + 1
    assert curl(f"{web.https}/").status == 200
