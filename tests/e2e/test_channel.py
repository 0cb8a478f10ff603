"""Strangers at the channel's port: whatever they send, nobody gets in and the array goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import ssl
import time

import pytest
from flows import Flows, scheduler_of, wait_whole, watched
from labs import lab_up

from dlba.election import authority

PORT = 7788
#: Seconds until whoever hasn't shown a certificate is cut off, and a little more.
CUT_OFF = 8.0


@pytest.fixture(scope="module")
def lab():
    with lab_up("channel") as lab:
        yield lab


@pytest.fixture
def calm(lab):
    """Connections run through the test, and nobody takes over, loses a peer or fails."""
    first = wait_whole(lab)
    term = lab.status(first)["term"]
    with Flows(lab, 9, 6) as flows, watched(lab) as (arp, story):
        yield
        assert wait_whole(lab) == first
        flows.check()
        arp.check(first)
        story.check()
    for name in lab.macs:
        document = lab.status(name)
        assert document["term"] == term
        assert {peer["name"] for peer in document["peers"]} == set(lab.macs) - {name}
        assert all(peer["connected"] for peer in document["peers"]), name


def dial(lab, node, seconds=CUT_OFF):
    """A connection of the client to the channel of a node."""
    sock = lab.socket()
    sock.settimeout(seconds)
    try:
        # The lab's plan: a is .11, b is .12.
        sock.connect((f"203.0.113.{11 + ord(node) - ord('a')}", PORT))
    except BaseException:
        sock.close()
        raise
    return sock


def is_cut_off(sock):
    """The other side closes, sooner or later, and says nothing that could matter."""
    end = time.monotonic() + CUT_OFF
    said = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while time.monotonic() < end:
            sock.settimeout(max(0.01, end - time.monotonic()))
            data = sock.recv(65536)
            if not data:
                return True
            said += data
            assert len(said) < 20_000
    return time.monotonic() < end


@pytest.mark.usefixtures("calm")
@pytest.mark.parametrize(
    "sent",
    [
        b"\x00" * 1000,
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x02\x85\x04\x80none" * 50,
        b"\x16\x03\x01\xff\xff" + b"\x01" * 1000,
        b"",
    ],
    ids=["zeros", "http", "banana", "hello", "silence"],
)
def test_no_tls(lab, sent):
    for node in lab.macs:
        with dial(lab, node) as sock:
            with contextlib.suppress(ConnectionError):
                sock.sendall(sent)
            assert is_cut_off(sock), node


def contexts(lab, folder):
    """What strangers come with, by name: a TLS context of the client's side."""

    def context(certificate=None, version=ssl.TLSVersion.TLSv1_3):
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
        made.minimum_version = made.maximum_version = version
        if certificate is not None:
            made.load_cert_chain(certificate, certificate.with_suffix(".key"))
        return made

    theirs, ours = folder / "theirs", folder / "ours"
    theirs.mkdir()
    authority.init(theirs, lab.name, time.time())
    # A copy, so that the lab's own certificates stay as they are.
    shutil.copytree(lab.folder / "ca", ours)
    return {
        "none": context(),
        "another authority's": context(authority.issue(theirs, "b", False, time.time())),
        "an operator's": context(authority.issue(ours, "boss", True, time.time())),
        "no node's": context(authority.issue(ours, "zed", False, time.time())),
        "old TLS": context(ours / "b.pem", ssl.TLSVersion.TLSv1_2),
        # A node's own, stolen, but only garbage to say.
        "a node's": context(ours / "b.pem"),
    }


@pytest.mark.usefixtures("calm")
def test_wrong_certificates(lab, tmp_path):
    for name, context in contexts(lab, tmp_path).items():
        with dial(lab, "a") as sock:
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                sock = context.wrap_socket(sock)
                sock.sendall(b"\x03\x80pb\x00" * 200)
                assert is_cut_off(sock), name
            sock.close()


@pytest.mark.usefixtures("calm")
def test_many_strangers_at_once(lab):
    """More than a node takes; those that it took are cut off in time."""
    first = scheduler_of(lab)
    with contextlib.ExitStack() as opened:
        socks = []
        for _ in range(300):
            with contextlib.suppress(OSError):
                socks.append(opened.enter_context(dial(lab, first, 1.0)))
        assert len(socks) > 50
        end = time.monotonic() + CUT_OFF
        for sock in socks:
            sock.settimeout(max(0.01, end - time.monotonic()))
            with contextlib.suppress(ConnectionError):
                assert sock.recv(1) == b""
    descriptors = len(os.listdir(f"/proc/{lab.pid(first)}/fd"))
    assert descriptors < 300
