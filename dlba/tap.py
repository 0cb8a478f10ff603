"""`twistd dlba`: options, and the service they ask for.

The only module that touches the global reactor. It makes three things true before any service
starts: time is monotonic (Twisted's own follows the wall clock, so a step freezes or fires every
timer), signals mean what the contract says, and objects that live as long as the process are kept
out of the garbage collector's sight once everything runs. HUP reads the configuration again
(`dlba.reload`) and gives it to the node; what that says of its files goes into the log.

Exit codes: 2 for usage and configuration, 1 for a start that failed, 0 else.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NoReturn

from OpenSSL.SSL import Error as TLSError
from twisted.application.service import IService, MultiService
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python import usage

from dlba import __version__
from dlba.config.load import load
from dlba.config.problems import Problem
from dlba.config.values import NodeConfig
from dlba.demo import Demo
from dlba.errors import ConfigError, DLBAError
from dlba.node import Node, Prepared, prepare
from dlba.reload import Reload

__all__ = ["Options", "makeService"]

#: Allocations between two collections: a request leaves no cycles, so a collection finds nothing.
GC_THRESHOLD = 50_000

#: HUPs that came before the reactor ran.
_early: list[int] = []

#: What a start or a reload fails with, by no fault of ours.
_EXPECTED = (OSError, TLSError, CannotListenError, DLBAError)

reactor: Any = global_reactor
_log = Logger(namespace="dlba")


class Options(usage.Options):
    """The command line of `twistd dlba`."""

    synopsis = "[options]"
    longdesc = "Runs one node of a decrypting load balancing array."
    optParameters: ClassVar[list[list[Any]]] = [
        ["config", "c", None, "the node's configuration, node.yaml"]
    ]
    optFlags: ClassVar[list[list[Any]]] = [
        ["test", "t", "check the configuration and exit: 0 if it is fine, 2 if not"],
        ["demo", None, "run a demonstration: no configuration, no root, no other program"],
    ]

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """As Twisted's, with the contract's exit code for a mistake."""
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            _exit(2, f"twistd dlba: {error}; see --help")

    def opt_version(self) -> NoReturn:
        """Print the version and exit."""
        print(f"dlba {__version__}")
        raise SystemExit(0)

    def postOptions(self) -> None:
        """Exactly one of -c and --demo."""
        if (self["config"] is None) == (not self["demo"]):
            _exit(2, "twistd dlba: expected one of -c node.yaml and --demo; see --help")
        if self["test"] and self["demo"]:
            _exit(2, "twistd dlba: -t checks a file: expected -c node.yaml with it")


def makeService(options: Options) -> IService:
    """The service for `options`. Ends the process with code 2 on a bad configuration."""
    reactor.seconds = time.monotonic
    # It would end the process. What is read from here on may be old by then.
    signal.signal(signal.SIGHUP, lambda number, _: _early.append(number))
    if options["demo"]:
        return _Main(None, "", options.parent or {})
    try:
        config = load(options["config"], warn=_warn)
    except ConfigError as error:
        _exit(2, str(error))
    if options["test"]:
        print(f"{options['config']}: fine")
        raise SystemExit(0)
    # A daemon may change its folder.
    return _Main(config, os.path.abspath(options["config"]), options.parent or {})


class _Main(MultiService):
    """The node, with the demo around it when there is no configuration."""

    def __init__(self, config: NodeConfig | None, path: str, twistd: Mapping[str, Any]) -> None:
        """`config` None: the demo, else what was read from `path`. `twistd`: its own options."""
        super().__init__()
        self._config = config
        self._path = path
        self._twistd = twistd
        self._demo: Demo | None = None
        self._node: Node | None = None
        self._reloading = Reload(reactor, self._read, self._apply, _EXPECTED, _words)

    def privilegedStartService(self) -> None:
        """Make the node and bind its ports; ends the process with code 1 when that fails."""
        try:
            config = self._config
            if config is None:
                self._demo = Demo(reactor)
                config = self._demo.start()
            self._node = Node(reactor, config)
            self._node.setServiceParent(self)
            super().privilegedStartService()
        except _EXPECTED as error:
            self._remove_demo()
            self._fail(_words(error))

    def startService(self) -> None:
        """Serve."""
        super().startService()
        reactor.callWhenRunning(self._running)

    def stopService(self) -> Deferred[Any]:
        """Drain and stop."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._reloading.stop()
        await super().stopService()
        if self._demo is not None:
            await self._demo.stop()

    def _fail(self, words: str) -> NoReturn:
        """End a start with code 1."""
        twistd = self._twistd
        if not twistd.get("nodaemon", True):
            # The parent waits for the exception's text, which twistd sends it, and ends with 1.
            raise DLBAError(words)
        pidfile = twistd.get("pidfile")
        if pidfile:
            with contextlib.suppress(OSError):
                os.unlink(pidfile)
        _exit(1, f"dlba: {words}")

    def _remove_demo(self) -> None:
        if self._demo is not None:
            self._demo.stop()

    def _running(self) -> None:
        for number, action in (
            (signal.SIGTERM, self._terminate),
            (signal.SIGINT, self._terminate),
            (signal.SIGUSR1, self._reopen),
            (signal.SIGHUP, self._reload),
            (signal.SIGUSR2, self._dump),
        ):
            # A handler runs between any two instructions; the reactor calls us at a safe point.
            signal.signal(number, lambda *_, action=action: reactor.callFromThread(action))
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 20, 100)
        _log.info("ready: pid {pid}", pid=os.getpid())
        if _early:
            self._reload()
        if self._demo is not None:
            # Not into the log, whose prefixes would stand before every line.
            print(self._demo.banner(), file=sys.__stdout__, flush=True)

    def _terminate(self) -> None:
        if reactor.running and self.running:
            reactor.stop()
        elif self._node is not None:
            _log.warn("asked to stop a second time: cutting off who is left")
            self._node.abort()

    def _reopen(self) -> None:
        if self._node is not None:
            self._node.reopen_logs()

    def _reload(self) -> None:
        if self._config is None:
            _log.warn("HUP: the demo has no file to read again; it stays as it is")
        else:
            self._reloading.ask()

    def _read(self) -> tuple[Prepared, list[Problem]]:
        """What the files say now; in a thread."""
        warnings: list[Problem] = []
        return prepare(load(self._path, warn=warnings.append)), warnings

    def _apply(self, read: tuple[Prepared, list[Problem]]) -> None:
        prepared, warnings = read
        assert self._node is not None
        self._node.reload(prepared)
        # The old configuration is the one thing of size that ends in cycles, and collections are
        # rare: without this, a node that is reloaded often grows until the next one.
        gc.collect()
        for problem in warnings:
            _log.warn("{problem}", problem=problem)

    def _dump(self) -> None:
        _log.warn("USR2: dumping the tables isn't there yet; see the monitor's /status")


def _warn(problem: Problem) -> None:
    print(f"warning: {problem}", file=sys.stderr)


def _words(error: Exception) -> str:
    if isinstance(error, CannotListenError):
        reason = getattr(error.socketError, "strerror", None) or error.socketError
        return f"listen on {error.interface}:{error.port}: {reason}"
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror}"
    return str(error)


def _exit(code: int, message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(code)
