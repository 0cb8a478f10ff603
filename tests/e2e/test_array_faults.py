"""Links are cut and nodes are killed: what goes on meanwhile, and what comes back."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from labs import MIB, NO_CHANNEL, VIP, lab_up, spread
from parts import wait_until
from wire import answers, who_has

#: Seconds without a packet after which a bucket may move.
BUCKET_TIMEOUT = 5
#: Seconds between two new connections, and for each of them.
EVERY, EACH = 0.02, 5.0
#: A download read slowly enough to last for seconds.
SLOW, PAUSE = 24 * MIB, 0.02


@pytest.fixture(scope="module")
def lab():
    with lab_up("faults", NO_CHANNEL, f"routing.bucket_timeout={BUCKET_TIMEOUT}") as lab:
        yield lab


class Knocks:
    """New connections of the client, one every 20 ms, each with a request.

    `results`: (when it began, seconds that it took, or None if it failed).
    """

    def __init__(self, lab, count):
        self.results = []
        self._lab = lab
        self._threads = [
            threading.Thread(target=self._knock, args=(port,), daemon=True)
            for port in lab.new_ports(count)
        ]
        self._starter = threading.Thread(target=self._start, daemon=True)

    def _start(self):
        for thread in self._threads:
            thread.start()
            time.sleep(EVERY)

    def _knock(self, port):
        began = time.monotonic()
        took = None
        try:
            session = self._lab.session(port, seconds=EACH)
            try:
                if session.ask().status == 200:
                    took = time.monotonic() - began
            finally:
                # Not closed: that would be repeated for minutes where nobody answers.
                session.abort()
        except OSError:
            pass
        self.results.append((began, took))

    def __enter__(self):
        self._starter.start()
        return self

    def __exit__(self, *_):
        for thread in (self._starter, *self._threads):
            thread.join(60)
        self.results.sort()
        assert len(self.results) == len(self._threads)


class Download(threading.Thread):
    """A long download over a node, read slowly."""

    def __init__(self, lab, node, size=SLOW):
        super().__init__(daemon=True)
        self._size = size
        self.session = lab.session_on(node, tls=True)
        self.transfer = None
        self.start()

    def run(self):
        with self.session:
            self.transfer = self.session.download(self._size, PAUSE)

    def check(self):
        """It came whole, and never stood still."""
        self.join(60)
        assert self.transfer is not None
        self.transfer.check(self._size)
        assert self.transfer.longest < 1.0


def test_a_link_cut_delays_new_connections_by_less_than_a_second(lab):
    running = [Download(lab, node) for node in ("a", "c", "a", "c")]
    with Knocks(lab, 200) as knocks:
        time.sleep(1.0)
        asked = time.monotonic()
        lab.do("cut", "b")
        cut = time.monotonic()
        assert cut - asked < 1.5
    for download in running:
        assert download.is_alive() or download.transfer
        download.check()
    before = [took for began, took in knocks.results if began < asked - 0.5]
    after = [took for began, took in knocks.results if began > cut + 1.0]
    assert len(before) > 10
    assert len(after) > 30
    # None of them had to send its first packet twice, which takes a second.
    assert None not in before
    assert None not in after
    assert max(before + after) < 0.9
    # One that met the cut comes through, too, unless the node had already begun with it.
    meanwhile = [took for began, took in knocks.results if asked <= began <= cut + 1.0]
    assert sum(took is None for took in meanwhile) <= len(meanwhile) / 10
    row = lab.rows()["b"]
    assert (row["failed"], row["groups"]) == (True, 0)
    assert "node b doesn't answer: failed" in lab.log("a")
    assert lab.status("b")["role"] == "fault"
    lab.do("heal", "b")
    lab.wait_all_live()
    lab.check_works()


def test_a_node_that_is_back_takes_unassigned_and_long_unused_buckets(lab):
    held = [lab.session_on(node, tls=True) for node in ("a", "c") for _ in range(3)]
    long_unused = silent_bucket(lab, "a")
    others = [silent_bucket(lab, "c") for _ in range(2)]
    lab.do("cut", "b")
    wait_until("b failed", lambda: lab.rows()["b"]["failed"], 5)
    time.sleep(BUCKET_TIMEOUT)
    recent = silent_bucket(lab, "c")
    before = {row["name"]: row["groups"] for row in lab.status()["nodes"]}
    lab.do("heal", "b")
    lab.wait_all_live()
    lab.check_works()
    # Being there is no reason to get anything: what was assigned stays so.
    after = lab.groups()
    assert (after["a"], after["c"]) == (before["a"], before["c"])
    assert after["b"] <= 1
    # Who is there keeps its node, though b has nothing.
    owners = [session.node for session in held]
    assert owners == ["a"] * 3 + ["c"] * 3
    for session in held:
        assert session.ask().status == 200
    assert [session.node for session in held] == owners
    assert lab.where(recent)["why"] == "HELD"
    use(lab, recent, "c")
    # Long unused: it moves with its next packet, not before.
    for port, owner in ((long_unused, "a"), *((port, "c") for port in others)):
        told = lab.where(port)
        assert (told["owner"], told["node"], told["why"]) == (owner, "b", "MOVES")
        use(lab, port, "b")
    # New ones go to b until it has as many as the others.
    rows = lab.status()["nodes"]
    ports = lab.new_ports(12)
    for port in ports:
        with lab.session(port) as session:
            session.ask()
    assert lab.groups() == spread(rows, len(ports))
    assert {lab.where(port)["owner"] for port in ports} == {"b"}
    for session in held:
        assert session.ask().status == 200
        session.close()


def silent_bucket(lab, node):
    """A port whose bucket the node has; nobody uses it any more."""
    session = lab.session_on(node)
    session.abort()
    return session.port


def use(lab, port, node):
    """A new connection from that port is that node's."""
    with lab.session(port) as session:
        assert session.ask().status == 200
        assert session.node == node


def test_the_link_of_the_scheduler(lab):
    """What is open on other nodes goes on when it is back; it forgets nobody meanwhile."""
    session = lab.session_on("b", tls=True)
    assert session.ask().status == 200
    lab.do("cut", "a")
    wait_until("fault", lambda: lab.status()["role"] == "fault", 5)
    with pytest.raises(OSError):
        lab.session(seconds=0.5)
    lab.do("heal", "a")
    wait_until("scheduler", lambda: lab.status()["role"] == "scheduler", 5)
    assert session.node == "b"
    assert session.ask().status == 200
    session.close()
    lab.check_works()
    assert lab.log("a").count("fault: eth0") == 1


def test_the_interface_of_the_scheduler_down_and_up(lab):
    """As an operator's `ip link set`, in the node itself."""
    session = lab.session_on("b", tls=True)
    assert session.ask().status == 200
    lab.tell("a", "ip", "link", "set", "eth0", "down")
    wait_until("fault", lambda: lab.status()["role"] == "fault", 5)
    lab.tell("a", "ip", "link", "set", "eth0", "up")
    wait_until("scheduler", lambda: lab.status()["role"] == "scheduler", 5)
    assert session.ask().status == 200
    assert session.node == "b"
    session.close()
    lab.wait_all_live()
    lab.check_works()


def test_a_scheduler_that_is_told_to_stop(lab):
    """It ends what it has begun, and goes on forwarding for the others until then."""
    download = Download(lab, "b", SLOW // 4)
    slow = lab.session_on("a")
    answers = []
    asking = threading.Thread(target=lambda: answers.append(slow.ask("/slow/3")), daemon=True)
    asking.start()
    time.sleep(0.5)
    os.kill(lab.pid("a"), signal.SIGTERM)
    told = time.monotonic()
    # New flows go elsewhere at once.
    wait_until("draining", lambda: lab.rows()["a"]["draining"], 5)
    for _ in range(4):
        with lab.session() as session:
            assert session.ask().status == 200
            assert session.node in ("b", "c")
    download.check()
    asking.join(30)
    assert [answer.status for answer in answers] == [200]
    wait_until("its end", lambda: lab.pid("a") is None, 20)
    assert 2.0 < time.monotonic() - told < 10.0
    slow.close()
    lab.do("start", "a")
    lab.wait_all_live()
    lab.check_works()


def test_the_scheduler_killed_and_started(lab):
    lab.do("kill", "a")
    assert lab.node_seen("a")["running"] is False
    assert lab.seen()["scheduler"] is None
    # Nobody takes its place, and nobody speaks for it: its kernel has the VIP on loopback alone.
    assert answers(lab, who_has(VIP)) == []
    with pytest.raises(OSError):
        lab.session(seconds=0.5)
    assert [lab.status(name)["role"] for name in ("b", "c")] == ["backup", "backup"]
    lab.do("start", "a")
    assert lab.seen()["scheduler"] == "a"
    lab.wait_all_live()
    lab.check_works()
    # It starts with an empty table: what is there came since.
    rows = lab.status()["nodes"]
    assert sum(row["groups"] for row in rows) < 15
    for port in lab.new_ports(30):
        with lab.session(port) as session:
            assert session.ask().status == 200
    assert lab.groups() == spread(rows, 30)


def test_a_backup_killed_and_started(lab):
    running = [Download(lab, node) for node in ("a", "c")]
    broken = lab.session_on("b")
    lab.do("kill", "b")
    with pytest.raises(OSError):
        broken.ask()
    broken.close()
    time.sleep(1.0)
    lab.do("start", "b")
    for download in running:
        download.check()
    lab.wait_all_live()
    with lab.session_on("b", tls=True) as session:
        session.download(MIB).check(MIB)
    lab.check_works()
