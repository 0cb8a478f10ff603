"""Puts the drop rule of own-MAC mode back when somebody has removed it.

`nft flush ruleset` takes every table there is, and Debian's `systemctl reload nftables` does it.
An adapter: every `EVERY` seconds it asks `nft`, in a process that nobody waits for: one at a time,
looked after by a timer, and killed when it hangs or the service stops; so no rule comes up after
the stop has removed it.

Not by the reactor's spawnProcess: that lists all descriptors of this process first, which takes
60 ms with 15,000 connections; `subprocess` has the kernel close them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any, Final

from twisted.application.service import Service
from twisted.logger import Logger

from dlba.routing.guard import ENVIRONMENT, TIMEOUT, Guard

__all__ = ["EVERY", "GLANCE", "GuardWatch"]

#: Seconds between an answer and the next question.
EVERY: Final = 2.0
#: Seconds between two glances whether `nft` has ended; it takes some 10 ms.
GLANCE: Final = 0.05

#: Exit code, None without one; what `nft` said.
Answer = Callable[[int | None, str], None]


class GuardWatch(Service):
    """`guard`: its rule is up as long as this service runs."""

    _log = Logger()

    def __init__(self, reactor: Any, guard: Guard) -> None:
        self._reactor = reactor
        self._guard = guard
        self._timer: Any = None
        self._process: subprocess.Popen[str] | None = None
        self._deadline = 0.0
        self._told = ""
        #: How often the rule was put back.
        self.restored = 0

    def startService(self) -> None:
        """Look from now on; the rule is up."""
        super().startService()
        self._again()

    def stopService(self) -> None:
        """Look no more; whatever is under way is over afterwards."""
        super().stopService()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        self._end()

    def _again(self) -> None:
        self._timer = self._reactor.callLater(EVERY, self._look)

    def _look(self) -> None:
        self._ask(("list", "table", "netdev", self._guard.table), self._seen)

    def _seen(self, code: int | None, said: str) -> None:
        if code == 0 and self._guard.is_in(said):
            self._told = ""
        elif code == 0 or (code == 1 and "No such file or directory" in said):
            self._ask(("--", self._guard.rules), self._put_back)
            return
        else:
            self._tell(f"own_mac: nft: expected to see the drop rule, got: {_line(code, said)}")
        self._again()

    def _put_back(self, code: int | None, said: str) -> None:
        if code == 0:
            self.restored += 1
            self._told = ""
            self._log.error("own_mac: the drop rule was gone: put back")
        else:  # the interface is gone as well, mostly
            self._tell(f"own_mac: the drop rule is gone, and nft says: {_line(code, said)}")
        self._again()

    # ---------------------------------------------------------------- nft

    def _ask(self, arguments: tuple[str, ...], answer: Answer) -> None:
        """Start `nft`; `answer` is called when it has ended."""
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the words are ours
                ["nft", *arguments],  # noqa: S607 - looked for in ENVIRONMENT
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=ENVIRONMENT,
            )
        except OSError as error:
            answer(None, str(error))
            return
        self._deadline = self._reactor.seconds() + TIMEOUT
        self._timer = self._reactor.callLater(GLANCE, self._glance, answer)

    def _glance(self, answer: Answer) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        code = self._process.poll()
        if code is None and self._reactor.seconds() < self._deadline:
            self._timer = self._reactor.callLater(GLANCE, self._glance, answer)
            return
        said = f"no answer within {TIMEOUT:.0f} s"
        if code is not None:
            said = self._process.stdout.read()  # at most what a pipe holds: more makes nft hang
        self._end()
        answer(code, said)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            assert process.stdout is not None
            process.stdout.close()
            process.kill()
            process.wait()

    def _tell(self, problem: str) -> None:
        """Say it, unless it was the last that was said."""
        if problem != self._told:
            self._told = problem
            self._log.error("{problem}", problem=problem)


def _line(code: int | None, said: str) -> str:
    return " ".join(said.split())[:500] or f"exit code {code}"
