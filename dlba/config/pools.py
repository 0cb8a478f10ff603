"""Web servers behind the nodes, and how they are reached: keys of `pools`.

Pure; part of `dlba.config.values`, and written like it. Source: the contract's array.yaml, web.md
rules 5, 6, 12 and 14.
"""

from attrs import field, frozen

from dlba.addresses import Endpoint
from dlba.config import fields as f
from dlba.config import httpfields as h
from dlba.config.shapes import named_tuple, read_by, record


@frozen(kw_only=True)
class CheckConfig:
    """Requests of DLBA's own that tell whether a backend answers."""

    path: str = field(
        default="/",
        metadata=read_by(
            h.request_path(),
            "What is asked for with GET; 2xx and 3xx are good.",
            wrong="One that answers otherwise: the backend counts as failed.",
        ),
    )
    every: float = field(
        default=5.0,
        metadata=read_by(
            f.duration(low=0.1, high=3600),
            "From one check of a backend to the next.",
            wrong="Long: a dead backend is found by requests first.",
        ),
    )
    rise: int = field(
        default=2,
        metadata=read_by(
            f.integer(1, 100),
            "Good checks in a row after which a failed backend is used again.",
            wrong="1: a backend that is only just starting gets requests.",
        ),
    )
    fall: int = field(
        default=3,
        metadata=read_by(
            f.integer(1, 100),
            "Bad checks in a row after which a backend has failed.",
            wrong="1: a backend that is busy for a moment is left by its clients.",
        ),
    )
    timeout: float = field(
        default=2.0,
        metadata=read_by(
            f.duration(high=600),
            "For one check, from connecting to the end of the response's head.",
            beyond=True,
            wrong="Short: a slow backend counts as a dead one.",
        ),
    )
    host: str | None = field(
        default=None,
        metadata=read_by(
            h.sent_host(),
            "What is sent as Host; it isn't looked up.",
            beyond=True,
            wrong="One that the backend doesn't serve: its checks may fail.",
            default="the backend's address and port",
        ),
    )


@frozen(kw_only=True)
class BackendConfig:
    """A web server or cache behind the nodes."""

    name: str = field(metadata=read_by(f.name(), "Name of the backend.", entry=True))
    address: Endpoint = field(
        metadata=read_by(
            f.remote_endpoint(),
            "Where it listens; a name is resolved when the file is loaded.",
            wrong="Nobody there: the backend has failed. Another address of its name: reload.",
        )
    )
    weight: int = field(
        default=1,
        metadata=read_by(
            f.integer(0, 1000),
            "Its share, against the pool's other weights; 0: only clients that a token brings.",
            wrong="Too high: that backend is the slow one.",
        ),
    )
    backup: bool = field(
        default=False,
        metadata=read_by(
            f.boolean(),
            "Used only when no other backend is left.",
            wrong="True for all: none is spared.",
        ),
    )
    enabled: bool = field(
        default=True,
        metadata=read_by(
            f.boolean(),
            "False: gets no requests, its clients move.",
            wrong="False: sessions that only this backend knows are lost.",
        ),
    )


@frozen(kw_only=True)
class PoolConfig:
    """Backends that serve the same content."""

    name: str = field(metadata=read_by(f.name(), "Name of the pool.", entry=True))
    backends: tuple[BackendConfig, ...] = field(
        metadata=read_by(named_tuple(BackendConfig, f.name(), at_least=1), "The backends by name.")
    )
    connect_timeout: float = field(
        default=1.0,
        metadata=read_by(
            f.duration(),
            "For one connection; a backend that takes longer has failed.",
            wrong="Short: a busy backend counts as dead; long: clients wait for dead ones.",
        ),
    )
    connect_total: float = field(
        default=5.0,
        metadata=read_by(
            f.duration(),
            "For all tries to connect of one request.",
            wrong="Shorter than two tries: a request gets 504 though a backend lives.",
        ),
    )
    fail_timeout: float = field(
        default=10.0,
        metadata=read_by(
            f.duration(),
            "Until a failed backend is tried by one request again.",
            wrong="Short: requests wait for dead backends more often.",
        ),
    )
    check: CheckConfig | None = field(
        default=None,
        metadata=read_by(
            record(CheckConfig),
            "Checks beside the seed's own, which is a connection that fails.",
            default="none: a backend has failed when a connection to it fails",
        ),
    )
    reuse: bool = field(
        default=False,
        metadata=read_by(
            f.boolean(),
            "Keeps some idle connections to each backend for further requests.",
            wrong="True with backends that close at will: some requests are sent twice.",
        ),
    )
    backend_close: str = field(
        default="reset",
        metadata=read_by(
            f.choice("reset", "wait"),
            "How a finished connection ends: at once, or with up to 1 s for the backend to close.",
            beyond=True,
            wrong="wait with backends that keep connections: each leaves a port in TIME_WAIT.",
        ),
    )
    hash_key: str = field(
        default="",
        metadata=read_by(
            f.text(empty=True),
            "Key of the URL hash, the same on all nodes.",
            beyond=True,
            wrong="Empty: clients can find URLs that meet on one backend.",
        ),
    )
