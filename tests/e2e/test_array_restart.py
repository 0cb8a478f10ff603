"""A scheduler that is stopped in order and started again: the others' connections go on."""

from __future__ import annotations

import contextlib
import os
import re
import signal

import pytest
from labs import NO_CHANNEL, lab_up
from parts import wait_until

MODES = {"sum": (), "keyed": ("routing.hash=keyed",)}
EACH = 4


@pytest.fixture(params=MODES)
def lab(request):
    with lab_up("restart", NO_CHANNEL, *MODES[request.param]) as lab:
        yield lab


def restart(lab, sent=signal.SIGTERM):
    """The scheduler ends by this signal, and starts again."""
    os.kill(lab.pid("a"), sent)
    wait_until("the end of a", lambda: lab.pid("a") is None, 20)
    lab.do("start", "a")


def taken_up(lab):
    """How many buckets each start of `a` has taken up."""
    return list(map(int, re.findall(r"client table of (\d+) buckets taken up", lab.log("a"))))


def test_connections_of_the_others_survive(lab):
    file = lab.folder / "a" / "state" / "table"
    with contextlib.ExitStack() as opened:
        sessions = {
            name: [opened.enter_context(lab.session_on(name, tls=True)) for _ in range(EACH)]
            for name in lab.macs
        }
        for session in (*sessions["a"], *sessions["b"], *sessions["c"]):
            assert session.ask().status == 200
        for count in range(1, 3):
            before = lab.status()["table"]["assigned"]
            restart(lab)
            assert taken_up(lab)[count - 1 :] == [before]
            assert not file.exists()
            # So many that placed anew they would hardly all come to their nodes by chance.
            for name in ("b", "c"):
                for session in sessions[name]:
                    assert session.ask().status == 200
                    assert session.node == name
        # Those of the scheduler itself ended with it.
        for session in sessions["a"]:
            with pytest.raises(OSError):
                session.ask()
    lab.wait_all_live()
    lab.check_works()


def test_nothing_is_taken_up_after_a_kill(lab):
    with lab.session_on("c") as session:
        assert session.ask().status == 200
        restart(lab)
        assert session.ask().status == 200
    file = lab.folder / "a" / "state" / "table"
    assert not file.exists()
    assert len(taken_up(lab)) == 1
    restart(lab, signal.SIGKILL)
    assert len(taken_up(lab)) == 1
    lab.wait_all_live()
    lab.check_works()
