"""Reads the configuration again in a thread, and hands over what it says or tells why not.

Names are resolved and files are read, which may take long: the node serves meanwhile. Asked again
while it reads, it reads once more, for the file may have changed behind its back. The thread is a
daemon's, so a node that stops waits for no resolver.
"""

from __future__ import annotations

import threading  # noqa: TID251 - reading blocks, and nothing is shared while it does
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from twisted.logger import Logger
from twisted.python.failure import Failure

from dlba.errors import ConfigError

__all__ = ["Reload"]

Read = TypeVar("Read")


class Reload(Generic[Read]):
    """Reloads when asked.

    `read`: called in a thread; `apply`: called with its result on the reactor. What they raise out
    of `expected` is told line by line, by ConfigError's problems or in the `words` for it; anything
    else is a fault of ours, with its traceback.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        read: Callable[[], Read],
        apply: Callable[[Read], None],
        expected: tuple[type[Exception], ...],
        words: Callable[[Exception], str],
    ) -> None:
        self._reactor = reactor
        self._read = read
        self._apply = apply
        self._expected = expected
        self._words = words
        self._reading = False
        self._again = False
        self._stopped = False

    def ask(self) -> None:
        """Reload, or once more when the present reload is done."""
        if self._stopped:
            return
        if self._reading:
            self._again = True
            return
        self._reading = True
        threading.Thread(target=self._run, name="dlba reload", daemon=True).start()

    def stop(self) -> None:
        """The node stops: what is being read is of no use any more."""
        self._stopped = True

    def _run(self) -> None:
        try:
            read: Read | Failure = self._read()
        except Exception:  # noqa: BLE001 - told on the reactor
            read = Failure()  # type: ignore[no-untyped-call]
        self._reactor.callFromThread(self._done, read)

    def _done(self, read: Read | Failure) -> None:
        self._reading = False
        if self._stopped:
            return
        again, self._again = self._again, False
        self._take(read)
        if again:
            # What was read may have been old by then.
            self.ask()

    def _take(self, read: Read | Failure) -> None:
        try:
            if isinstance(read, Failure):
                read.raiseException()
            else:
                self._apply(read)
        except ConfigError as error:
            self._refused([str(problem) for problem in error.problems])
        except self._expected as error:
            self._refused(self._words(error).splitlines())
        except Exception:  # noqa: BLE001 - a signal must not end the node
            self._log.failure("not reloaded: the configuration stays as it is")

    def _refused(self, lines: list[str]) -> None:
        for line in lines:
            self._log.error("{line}", line=line)
        self._log.error("not reloaded: the configuration stays as it is")
