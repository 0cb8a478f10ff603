"""One finding about a configuration file: where it is and what was expected there.

Pure. A problem never holds key material: what was found goes through `quoted`, which names what
looks like a key instead of showing it, and cuts long text.
"""

import json
import re

import attrs

SHOWN = 60  # characters of a wrong value that a message shows

# A key pasted where its path belongs: longer than a word, mixed as base64 is and names aren't.
_BASE64 = re.compile(r"(?=[^\s]*[0-9])(?=[^\s]*[a-z])(?=[^\s]*[A-Z])[A-Za-z0-9+/=]{40,}", re.ASCII)


@attrs.frozen(order=True)
class Problem:
    """A finding. Problems sort by file, line and column (both from 1).

    `key` is the dotted path of the key within its file, empty for the file as a whole; `message`
    reads "expected ..., got ...".
    """

    file: str
    line: int
    column: int
    key: str
    message: str

    def __str__(self) -> str:
        key = self.key or "document"
        return f"{self.file}:{self.line}:{self.column}: {key}: {self.message}"


def quoted(text: str) -> str:
    """`text` for a message: in double quotes, escaped, cut at `SHOWN` characters; no key."""
    if "-----BEGIN" in text or "PRIVATE KEY" in text:
        return "a PEM block"
    # What isn't shown needs no look, which takes long where the text is.
    if _BASE64.search(text[: SHOWN + 100]):
        return "what looks like a key"
    if len(text) > SHOWN:
        text = text[:SHOWN] + "…"
    shown = json.dumps(text, ensure_ascii=False)
    return shown if shown.isprintable() else json.dumps(text)


def printable(text: str) -> str:
    """`text` with escapes for what a terminal would not show, or would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def dotted(path: tuple[str | int, ...]) -> str:
    """A key path for people: ("web", "sites", 1, "pool") is `web.sites[1].pool`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            # A key is whatever stands in the file; only a plain one is shown bare.
            plain = part.isascii() and part.isprintable() and 0 < len(part) <= SHOWN
            shown = part if plain and not set(part) & set('." \\:') else quoted(part)
            text += f".{shown}" if text else shown
    return text
