"""Decides nothing: the few errors that DLBA raises, split by whose fault they are.

Ours: `ConfigError` (see `dlba.config.problems`). The client's: `HeadError`. A backend's:
`BackendError`. A peer's: `PeerError`. A command's end: `CommandError`. None of them ever leaves a
reactor callback: an adapter catches it and turns it into an answer, a counter or a closed
connection. Messages read `where: what: expected, got` and never carry a secret, a cookie value or
a body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlba.config.problems import Problem

__all__ = ["BackendError", "CommandError", "ConfigError", "DLBAError", "HeadError", "PeerError"]


class DLBAError(Exception):
    """What every error of DLBA's own derives from."""


class ConfigError(DLBAError):
    """The configuration can't be used.

    `problems`: every problem found in one run, sorted by file, line and column.
    """

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class HeadError(DLBAError):
    """A client's message that can't be served. `status`: the HTTP status that says why best."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason


class BackendError(DLBAError):
    """A backend that didn't keep to HTTP. `kind`: a word for counters and logs, e.g. `head`."""

    def __init__(self, kind: str, reason: str = "") -> None:
        super().__init__(f"{kind}: {reason}")
        self.kind = kind
        self.reason = reason


class PeerError(DLBAError):
    """Another node of the array that broke the channel's protocol; the channel adds its name."""


class CommandError(DLBAError):
    """Ends a `dlba` command: its text goes to standard error, `code` becomes the exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code
