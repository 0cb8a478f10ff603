"""What the doctor knows of a machine, and what it says about it: values alone.

Pure. Whatever could not be looked at is an `Unseen` with the reason; a rule that needs it says so,
and never takes it for fine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import attrs

from dlba.routing.needs import Address, Change, Feature, Interface

__all__ = ["Facts", "Finding", "Level", "Unseen"]


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    #: Worth knowing; nothing to do, or a node does it itself at its start.
    NOTE = "note"
    #: May break direct return, or some of it could not be looked at.
    WARNING = "warning"
    #: Breaks direct return, or keeps a node from starting.
    PROBLEM = "problem"


@attrs.frozen
class Finding:
    """`about`: what was looked at, a word or two; `found`: a sentence for people.

    `mend`: a command line that mends it, empty where there is none; `change`: the same for `--fix`,
    where it is safe to do without asking.
    """

    level: Level
    about: str
    found: str
    mend: str = ""
    change: Change | None = None


@attrs.frozen
class Unseen:
    """What could not be looked at, and why, in words."""

    why: str


@attrs.frozen(kw_only=True)
class Facts:
    """One machine, as far as this node's configuration concerns it.

    `node.interface` is looked at; a node without one has `interface` None and nothing about it.
    """

    #: Whether the node runs: its state folder is held.
    running: bool | Unseen = False
    #: Its role as its own monitor says, None if that doesn't answer.
    role: str | None = None
    #: Effective ones of this process, as `CAP_NET_RAW`.
    capabilities: frozenset[str] = frozenset()
    #: Ports below this one need a capability.
    first_free_port: int = 1024
    #: The node's own, None if there is none by that name.
    interface: Interface | Unseen | None = None
    #: The TUN device, None if it isn't there.
    tun: Interface | Unseen | None = None
    #: Why /dev/net/tun can't be opened, None if it can.
    no_tun: str | None = None
    #: IPv4 addresses of all interfaces.
    addresses: Sequence[Address] | Unseen = ()
    #: By device and key: `needs.sysctls_of` the interface, and the TUN device if it is there.
    sysctls: Mapping[tuple[str, str], int] = attrs.field(factory=dict)
    #: Why sysctls can't be written, None if they can.
    no_sysctls: str | None = None
    #: `needs.feature_names` of the interface.
    features: Mapping[str, Feature] | Unseen = attrs.field(factory=dict)
    #: What `nft -j list ruleset` lists, without the outer key; None without that program.
    ruleset: Sequence[Mapping[str, Any]] | Unseen | None = ()
    #: Tables of iptables-legacy.
    legacy_tables: Sequence[str] = ()
    #: Whether the kernel's clock is kept in step by somebody.
    synchronised: bool | Unseen = True
    #: How many keys of the secrets file sign; Unseen: what is wrong with it; None: no file yet.
    keys: int | Unseen | None = None
