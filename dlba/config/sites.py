"""Which hosts and paths there are, and what a site does with its requests: keys of `sites`.

Pure; part of `dlba.config.values`, and written like it. Source: the contract's array.yaml, web.md
rules 5, 7 and 9.
"""

from attrs import field, frozen

from dlba.config import fields as f
from dlba.config import httpfields as h
from dlba.config.shapes import list_of, mapping_of, read_by, record

KIB = 1024  # bytes


@frozen(kw_only=True)
class PersistenceConfig:
    """The cookie that keeps a client with its backend."""

    cookie: str = field(
        default="DLBA",
        metadata=read_by(
            f.cookie_name(),
            "Name of our cookie.",
            wrong="Changed: every client may get another backend once.",
        ),
    )
    session_cookie: str | None = field(
        default=None,
        metadata=read_by(
            f.cookie_name(),
            "The application's session cookie: ours is set, renewed and deleted with it.",
            wrong="Another name: no cookie is set, and sessions lose their backend.",
            default="ours is set on a client's first response",
        ),
    )
    max_age: int | None = field(
        default=None,
        metadata=read_by(
            f.whole_seconds(low=1),
            "Max-Age of our cookie where it follows no session cookie.",
            wrong="Shorter than a session: it moves to another backend.",
            default="until the browser closes",
        ),
    )
    path: str = field(
        default="/",
        metadata=read_by(
            f.path_prefix(forbidden=";"),
            "Path of our cookie.",
            wrong="Narrower than the site: requests elsewhere lose their backend.",
        ),
    )
    domain: str | None = field(
        default=None,
        metadata=read_by(
            f.cookie_domain(),
            "Domain of our cookie.",
            wrong="Not the host's own or above it: browsers refuse the cookie.",
            default="the host alone",
        ),
    )
    same_site: str = field(
        default="Lax",
        metadata=read_by(
            f.choice("Lax", "Strict", "None"),
            "SameSite of our cookie.",
            wrong="None needs `secure: true`: browsers drop the cookie otherwise.",
        ),
    )
    secure: bool | None = field(
        default=None,
        metadata=read_by(
            f.boolean(),
            "Whether our cookie is sent over HTTPS only.",
            wrong="True with a plain listener: no persistence over HTTP.",
            default="true where every listener is TLS or redirects to it",
        ),
    )


@frozen(kw_only=True)
class HeaderChangesConfig:
    """What is changed in the header of each message of a site; removed first, then set."""

    set: dict[str, str] = field(
        factory=dict,
        metadata=read_by(
            mapping_of(h.header_name(), h.header_value(), fold=True),
            "Fields by name with their value; they replace all fields of that name.",
            wrong="What the application relies on is gone.",
            default="none",
        ),
    )
    remove: tuple[str, ...] = field(
        default=(),
        metadata=read_by(
            list_of(h.header_name()),
            "Names of fields that are taken out.",
            wrong="What the application or the client relies on is gone.",
            default="none",
        ),
    )


@frozen(kw_only=True)
class SiteConfig:
    """Host names and paths served by one pool with one way of scheduling."""

    hosts: tuple[str, ...] = field(
        metadata=read_by(
            list_of(f.host_pattern(), at_least=1),
            "Hosts of the site: a name, *.name for the names under it, * for all.",
            wrong="A host is missing: it gets another site, the default one or 404.",
        )
    )
    paths: tuple[str, ...] = field(
        default=(),
        metadata=read_by(
            list_of(f.path_prefix()),
            "Path prefixes.",
            wrong="Too short: the site takes what another one is for.",
            default="all paths",
        ),
    )
    default: bool = field(
        default=False,
        metadata=read_by(
            f.boolean(),
            "Also takes what no site matches; without one that gets 404.",
            wrong="False everywhere: unknown hosts get 404.",
        ),
    )
    pool: str = field(
        metadata=read_by(
            f.name(),
            "Name of the pool that serves the site.",
            wrong="Another one: clients get another application.",
        )
    )
    schedule: str = field(
        default="cookie",
        metadata=read_by(
            f.choice("cookie", "url", "connections", "round-robin"),
            "What chooses the backend: our cookie, a hash of the URL, least connections, turns.",
            wrong="Other than cookie: a client's session meets changing backends.",
        ),
    )
    persistence: PersistenceConfig = field(
        factory=PersistenceConfig,
        metadata=read_by(record(PersistenceConfig), "The cookie of `schedule: cookie`."),
    )
    request_headers: HeaderChangesConfig = field(
        factory=HeaderChangesConfig,
        metadata=read_by(
            record(HeaderChangesConfig), "Changes of what the backend gets of a request's header."
        ),
    )
    response_headers: HeaderChangesConfig = field(
        factory=HeaderChangesConfig,
        metadata=read_by(
            record(HeaderChangesConfig), "Changes of what the client gets of a response's header."
        ),
    )
    upgrade: tuple[str, ...] = field(
        default=(),
        metadata=read_by(
            list_of(h.upgrade_token()),
            "Protocols that a client may change to, usually websocket.",
            default="none: Upgrade is not passed on",
            wrong="One that carries requests: the backend serves what DLBA doesn't see.",
        ),
    )
    max_body: int | None = field(
        default=None,
        metadata=read_by(
            f.size(),
            "Longest request body; longer ones get 413.",
            wrong="Low: uploads get 413.",
            default="no limit",
        ),
    )
    request_buffer: int = field(
        default=256 * KIB,
        metadata=read_by(
            f.size(0, 1024 * 1024 * KIB),
            "Body that is read before a backend is connected; the rest is streamed.",
            wrong="Large: memory for each slow upload.",
        ),
    )
