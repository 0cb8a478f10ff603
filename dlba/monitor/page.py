"""Decides how the live page shows the status tables to people.

Pure: the document of `dlba.monitor.status` in, HTML text out. The page loads nothing else, runs no
script and works in a text browser and a screen reader: a table with caption and header cells, and
states in words, not in colour alone. It reloads itself every REFRESH seconds; whoever needs it to
stand still follows its link to `HELD`.
"""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, TypeAlias

REFRESH = 5
"""Seconds: a person sees a failed backend within a breath, and the node hardly notices."""

HELD = "/?held"

STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }
table { border-collapse: collapse; margin-bottom: 1rem; width: 100%; }
caption { font-weight: bold; padding: .5rem 0; text-align: left; }
th, td { border-bottom: 1px solid #8888; padding: .3rem .6rem; text-align: left; }
.number { font-variant-numeric: tabular-nums; text-align: right; }
.failed { font-weight: bold; outline: 2px solid #c33; outline-offset: -2px; }
"""

# Heading, key in the document, and how its values show: `word` (truth as yes or no), `number`,
# `ms` (seconds as milliseconds), `alarm` (a word that stands out when it is true).
_Columns: TypeAlias = tuple[tuple[str, str, str], ...]

_RESPONSE = ("Average response (ms)", "average_response", "ms")
_HITS = ("Hits", "hits", "number")
_OPEN = ("Open connections", "open_connections", "number")
_FAILED = ("Failed", "failed", "alarm")
_DRAINING = ("Draining", "draining", "word")

_CLIENT_TABLE: _Columns = (
    ("Buckets", "buckets", "number"),
    ("Assigned", "assigned", "number"),
    ("Version", "version", "number"),
)
_NODES: _Columns = (
    ("Name", "name", "word"),
    ("Number", "number", "number"),
    ("Address", "address", "word"),
    ("MAC", "mac", "word"),
    ("Weight", "weight", "number"),
    ("IP groups", "groups", "number"),
    _RESPONSE,
    _HITS,
    _OPEN,
    ("Enabled", "enabled", "word"),
    _FAILED,
    _DRAINING,
)
_BACKENDS: _Columns = (
    ("Pool", "pool", "word"),
    ("Name", "name", "word"),
    ("Address", "address", "word"),
    _RESPONSE,
    _HITS,
    _OPEN,
    _FAILED,
    _DRAINING,
)
_PEERS: _Columns = (("Name", "name", "word"), ("Connected", "connected", "word"))
_SUMMARY: _Columns = (
    ("Pool", "pool", "word"),
    ("Name", "name", "word"),
    ("Address", "address", "word"),
    ("Cookie groups", "cookie_groups", "number"),
    _HITS,
    _OPEN,
)


def page(document: Mapping[str, Any], held: bool = False) -> str:
    """Return the whole page for a `/status` document. `held: bool`: it doesn't reload itself.

    The client table is shown where this node has one, the server status table and the summary
    status table where they are filled, at the scheduler, and the peers where there is a channel.
    """
    node = escape(str(document["node"]))
    facts = [f"role {escape(str(document['role']))}"]
    if document["term"]:
        facts.append(f"term {document['term']:d}")
    if document["scheduler"] is not None and document["role"] != "scheduler":
        facts.append(f"scheduler {escape(str(document['scheduler']))}")
    if document["vip"] is not None:
        facts.append(f"VIP {escape(str(document['vip']))}")
    refresh = "" if held else f'<meta http-equiv="refresh" content="{REFRESH}">\n'
    reload_text = (
        f'<a href="/">Reload every {REFRESH} seconds</a>'
        if held
        else f'Reloads every {REFRESH} seconds. <a href="{HELD}">Hold it</a>'
    )
    tables = ""
    if document["table"] is not None:
        tables += _table("Client table", _CLIENT_TABLE, [document["table"]])
    if document["nodes"]:
        tables += _table("Server status table", _NODES, document["nodes"])
    if document["peers"]:
        tables += _table("Channel", _PEERS, document["peers"])
    tables += _table("Web server status table", _BACKENDS, document["backends"])
    if document["summary"]:
        tables += _table("Summary status table", _SUMMARY, document["summary"])
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{refresh}<title>{node}: DLBA status</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<main>\n<h1>Node {node}</h1>\n<p>{', '.join(facts)}</p>\n"
        f"{tables}"
        f'<p>{reload_text}. As JSON: <a href="/status">/status</a></p>\n'
        "</main>\n</body>\n</html>\n"
    )


def _table(caption: str, columns: _Columns, rows: Iterable[Mapping[str, Any]]) -> str:
    """Return one table. Only the web server status table may be without rows."""
    headings = "".join(
        f'<th scope="col"{_class("number" if shown in ("number", "ms") else "")}>{heading}</th>'
        for heading, _, shown in columns
    )
    lines = "".join(
        f"<tr>{''.join(_cell(key, shown, row[key]) for _, key, shown in columns)}</tr>\n"
        for row in rows
    )
    if not lines:
        lines = f'<tr><td colspan="{len(columns)}">No backend is configured.</td></tr>\n'
    return (
        f"<table>\n<caption>{caption}</caption>\n<thead><tr>{headings}</tr></thead>\n"
        f"<tbody>\n{lines}</tbody>\n</table>\n"
    )


def _cell(key: str, shown: str, value: Any) -> str:
    """Return one cell, its text escaped; the name is its row's header cell."""
    if shown == "number":
        return f'<td class="number">{value:d}</td>'
    if shown == "ms":
        return f'<td class="number">{value * 1000:.1f}</td>'
    if isinstance(value, bool):
        kind = "failed" if shown == "alarm" and value else ""
        return f"<td{_class(kind)}>{'yes' if value else 'no'}</td>"
    text = escape(str(value))
    return f'<th scope="row">{text}</th>' if key == "name" else f"<td>{text}</td>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
