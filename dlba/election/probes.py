"""What this node asks the wire: whose kernel answers, who has the VIP, and is the gateway there.

Pure. A scheduler asks all nodes for ICMP echoes, everybody else the scheduler that it follows; a
backup asks by ARP for the VIP, and so does a scheduler that was absent: another one may have it.

Source: election.md "Heartbeat and evidence of death".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dlba.election.commands import GATEWAY, Command, Echo, ProbeVip
from dlba.election.transitions import State
from dlba.election.watch import VIP_SILENCE

__all__ = ["Probes"]

#: Seconds between two VIP probes of a backup: some may get lost in `VIP_SILENCE`.
VIP_PROBE: Final = 1 / 3
#: Claims because of unanswered ARP in a row double the wait for the next, to so many seconds.
VIP_WAIT_LIMIT: Final = 64.0
#: The gateway is silent after so many `down_after`: a router answers echoes when it has the time.
GATEWAY_AFTER: Final = 3


class Probes:
    """`ping_every`, `down_after`: seconds; `gateway`: whether one is tracked."""

    def __init__(self, ping_every: float, down_after: float, gateway: bool, now: float) -> None:
        self._ping_every = ping_every
        self._gateway_after = GATEWAY_AFTER * down_after
        self._gateway = gateway
        self._ping_at = now
        self._probe_at = now
        self._vip_at = now  # answered, or counted anew
        self._silence = VIP_SILENCE
        self._gateway_at = now
        self._gateway_silent = False

    # ---------------------------------------------------------------- the VIP

    @property
    def unanswered_at(self) -> float:
        """When evidence 4 is complete, if nobody answers for the VIP before."""
        return self._vip_at + self._silence

    def answers(self, now: float) -> bool:
        """Whether somebody has answered for the VIP just now."""
        return now - self._vip_at < VIP_SILENCE / 2

    def answered(self, now: float) -> None:
        """A node of the array says that it has the VIP."""
        self._vip_at = now
        self._silence = VIP_SILENCE

    def claimed(self) -> None:
        """A claim is made because of unanswered ARP."""
        self._silence = min(2 * self._silence, VIP_WAIT_LIMIT)

    def reset(self, now: float) -> None:
        """Evidence 4 is counted from here."""
        self._vip_at = now

    # ---------------------------------------------------------------- the gateway

    def gateway_echoed(self, now: float) -> None:
        """The gateway has answered an echo request."""
        self._gateway_at = now

    def absent(self, now: float) -> None:
        """This node was absent: a gateway that wasn't silent before isn't by that."""
        if not self._gateway_silent:
            self._gateway_at = now

    def gateway(self, now: float) -> str | None:
        """Why the gateway is a fault from here, empty: it is none any more, None: as before."""
        silent = self._gateway and now - self._gateway_at > self._gateway_after
        if silent == self._gateway_silent:
            return None
        self._gateway_silent = silent
        return "the gateway is silent" if silent else ""

    # ---------------------------------------------------------------- what is due

    def vip_due(self, now: float) -> bool:
        """Whether a backup sends a VIP probe now; then it counts as sent."""
        if now < self._probe_at:
            return False
        self._probe_at = now + VIP_PROBE
        return True

    def ping_due(self, now: float) -> bool:
        """Whether `pings` are sent now; then they count as sent."""
        if now < self._ping_at:
            return False
        self._ping_at = now + self._ping_every
        return True

    def beat(self, now: float) -> None:
        """A heartbeat has come: an echo that is due soon is due now.

        So both signs of life are equally old when they end, and silence isn't counted from an echo
        that came long after the last heartbeat.
        """
        if now >= self._ping_at - self._ping_every / 2:
            self._ping_at = now

    def pings(self, state: State, followed: int, others: Iterable[int]) -> list[Command]:
        """`followed`: number of the scheduler that this node follows, or -1; `others`: all."""
        out: list[Command] = []
        if state in (State.SCHEDULER, State.ABSENT):
            out += [Echo(number) for number in others]
        elif followed != -1:
            out.append(Echo(followed))
        if state is State.ABSENT:
            out.append(ProbeVip())
        if self._gateway:
            out.append(Echo(GATEWAY))
        return out
