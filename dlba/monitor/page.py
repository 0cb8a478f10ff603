"""Decides how the live page shows the status tables to people.

Pure: the document of `dlba.monitor.status` in, HTML text out. The page loads nothing else, runs no
script and works in a text browser and a screen reader: a table with caption and header cells, and
states in words, not in colour alone. It reloads itself every REFRESH seconds; whoever needs it to
stand still follows its link to `HELD`.
"""

from collections.abc import Mapping
from html import escape
from typing import Any

REFRESH = 5
"""Seconds: a person sees a failed backend within a breath, and the node hardly notices."""

HELD = "/?held"

STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
caption { font-weight: bold; padding: .5rem 0; text-align: left; }
th, td { border-bottom: 1px solid #8888; padding: .3rem .6rem; text-align: left; }
.number { font-variant-numeric: tabular-nums; text-align: right; }
.failed { font-weight: bold; outline: 2px solid #c33; outline-offset: -2px; }
"""

_COLUMNS = (
    ("Pool", ""),
    ("Name", ""),
    ("Address", ""),
    ("Average response (ms)", "number"),
    ("Hits", "number"),
    ("Open connections", "number"),
    ("Failed", ""),
)


def page(document: Mapping[str, Any], held: bool = False) -> str:
    """Return the whole page for a `/status` document. `held: bool`: it doesn't reload itself."""
    node = escape(str(document["node"]))
    facts = [f"role {escape(str(document['role']))}"]
    if document["vip"] is not None:
        facts.append(f"VIP {escape(str(document['vip']))}")
    refresh = "" if held else f'<meta http-equiv="refresh" content="{REFRESH}">\n'
    reload_text = (
        f'<a href="/">Reload every {REFRESH} seconds</a>'
        if held
        else f'Reloads every {REFRESH} seconds. <a href="{HELD}">Hold it</a>'
    )
    headings = "".join(f'<th scope="col"{_class(kind)}>{name}</th>' for name, kind in _COLUMNS)
    rows = "".join(_row(backend) for backend in document["backends"])
    if not rows:
        rows = f'<tr><td colspan="{len(_COLUMNS)}">No backend is configured.</td></tr>\n'
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{refresh}<title>{node}: DLBA status</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<main>\n<h1>Node {node}</h1>\n<p>{', '.join(facts)}</p>\n"
        f"<table>\n<caption>Web server status table</caption>\n"
        f"<thead><tr>{headings}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"
        f'<p>{reload_text}. As JSON: <a href="/status">/status</a></p>\n'
        "</main>\n</body>\n</html>\n"
    )


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _row(backend: Mapping[str, Any]) -> str:
    """Return one backend's line: name as header cell, all text escaped."""
    failed = backend["failed"]
    state = "yes" if failed else "no"
    if backend["draining"]:
        state += ", draining"
    return (
        f"<tr><td>{escape(str(backend['pool']))}</td>"
        f'<th scope="row">{escape(str(backend["name"]))}</th>'
        f"<td>{escape(str(backend['address']))}</td>"
        f'<td class="number">{backend["average_response"] * 1000:.1f}</td>'
        f'<td class="number">{backend["hits"]:d}</td>'
        f'<td class="number">{backend["open_connections"]:d}</td>'
        f"<td{_class('failed' if failed else '')}>{state}</td></tr>\n"
    )
