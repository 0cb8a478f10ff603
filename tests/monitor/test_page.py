"""The live page, read back by the standard library's HTML parser."""

from html.parser import HTMLParser
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.monitor.page import page
from dlba.monitor.status import (
    ArrayStatus,
    BackendRow,
    NodeRow,
    RoutingStatus,
    SummaryRow,
    status_document,
)


class Reader(HTMLParser):
    """Collects the elements with their attributes, and the cells of the table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.texts: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"{tag} closes another element"

    def handle_data(self, data: str) -> None:
        tag = self._open[-1] if self._open else ""
        self.texts[tag] = self.texts.get(tag, "") + data
        if tag in ("td", "th"):
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


ROWS = [
    BackendRow("app", "app1", "10.0.1.1:8080", 0.0114, 511, 3, False, False, 0),
    BackendRow("app", "app2", "10.0.1.2:8080", 0.0, 0, 0, True, True, 0),
]
NODES = [
    NodeRow("a", 0, "02:00:00:00:00:0a", "10.0.0.1", True, 1, 271, 0.0114, 90412, 31, False, False),
    NodeRow("b", 1, "02:00:00:00:00:0b", "10.0.0.2", False, 0, 0, 0.0, 0, 0, True, True),
]


def routing(role: str, nodes: list[NodeRow] = NODES) -> RoutingStatus:
    return RoutingStatus(role, nodes, 65536, 812, 1041)


class Page(SynchronousTestCase):
    """What people see."""

    def test_table(self) -> None:
        reader = Reader(page(status_document("a", "203.0.113.10", ROWS, {})))
        self.assertEqual(
            reader.rows,
            [
                [
                    "Pool", "Name", "Address", "Average response (ms)", "Hits",
                    "Open connections", "Failed", "Draining",
                ],
                ["app", "app1", "10.0.1.1:8080", "11.4", "511", "3", "no", "no"],
                ["app", "app2", "10.0.1.2:8080", "0.0", "0", "0", "yes", "yes"],
            ],
        )  # fmt: skip
        self.assertEqual(reader.texts["caption"], "Web server status table")
        self.assertEqual(reader.texts["title"], "a: DLBA status")
        self.assertIn("203.0.113.10", reader.texts["p"])

    def test_no_backend(self) -> None:
        reader = Reader(page(status_document("a", None, [], {})))
        self.assertEqual(reader.rows[1:], [["No backend is configured."]])

    def test_accessible_and_alone(self) -> None:
        """Language, header cells with scope, no script, nothing loaded from elsewhere."""
        reader = Reader(page(status_document("a", None, ROWS, {})))
        self.assertEqual(reader.all("html"), [{"lang": "en"}])
        self.assertEqual(
            [cell.get("scope") for cell in reader.all("th")], ["col"] * 8 + ["row"] * 2
        )
        names = {name for name, _ in reader.elements}
        self.assertEqual(names & {"script", "link", "img", "iframe", "object"}, set())
        links = [value for _, attributes in reader.elements for value in [attributes.get("href")]]
        self.assertTrue(all(link.startswith("/") for link in links if link is not None))

    def test_scheduler(self) -> None:
        """Its tables come first; every state of a node is a word."""
        document = status_document("a", "203.0.113.10", ROWS, {}, routing("scheduler"))
        reader = Reader(page(document))
        self.assertIn("role scheduler", reader.texts["p"])
        self.assertEqual(
            reader.texts["caption"], "Client tableServer status tableWeb server status table"
        )
        self.assertEqual(
            reader.rows[:5],
            [
                ["Buckets", "Assigned", "Version"],
                ["65536", "812", "1041"],
                [
                    "Name", "Number", "Address", "MAC", "Weight", "IP groups",
                    "Average response (ms)", "Hits", "Open connections", "Enabled", "Failed",
                    "Draining",
                ],
                [
                    "a", "0", "10.0.0.1", "02:00:00:00:00:0a", "1", "271",
                    "11.4", "90412", "31", "yes", "no", "no",
                ],
                [
                    "b", "1", "10.0.0.2", "02:00:00:00:00:0b", "0", "0",
                    "0.0", "0", "0", "no", "yes", "yes",
                ],
            ],
        )  # fmt: skip
        self.assertEqual(reader.rows[5][0], "Pool")
        scopes = [cell.get("scope") for cell in reader.all("th")]
        self.assertEqual(scopes, ["col"] * 15 + ["row"] * 2 + ["col"] * 8 + ["row"] * 2)

    def test_array(self) -> None:
        """Term, summary and channel at the scheduler; at a backup whom it follows."""
        peers = {"b": {"connected": True}, "<c>": {"connected": False}}
        summary = [SummaryRow("app", "app1", "10.0.1.1:8080", 17, 1502, 9)]
        array = ArrayStatus(4, "a", peers, summary)
        document = status_document("a", None, ROWS, {}, routing("scheduler"), array)
        reader = Reader(page(document))
        self.assertIn("role scheduler, term 4", reader.texts["p"])
        self.assertEqual(
            reader.texts["caption"],
            "Client tableServer status tableChannelWeb server status tableSummary status table",
        )
        self.assertEqual(reader.rows[5:8], [["Name", "Connected"], ["b", "yes"], ["<c>", "no"]])
        self.assertEqual(
            reader.rows[-2:],
            [
                ["Pool", "Name", "Address", "Cookie groups", "Hits", "Open connections"],
                ["app", "app1", "10.0.1.1:8080", "17", "1502", "9"],
            ],
        )
        array = ArrayStatus(4, "<b>", peers, summary)
        reader = Reader(page(status_document("a", None, ROWS, {}, routing("backup"), array)))
        self.assertIn("role backup, term 4, scheduler <b>", reader.texts["p"])
        self.assertNotIn("Summary", reader.texts["caption"])

    def test_other_roles(self) -> None:
        """A backup shows the client table that it has, a proxy alone has none."""
        for part, captions in (
            (routing("backup"), "Client tableWeb server status table"),
            (routing("fault"), "Client tableWeb server status table"),
            (None, "Web server status table"),
        ):
            reader = Reader(page(status_document("a", None, ROWS, {}, part)))
            self.assertEqual(reader.texts["caption"], captions)

    def test_reload_can_be_held(self) -> None:
        document = status_document("a", None, ROWS, {})
        live, held = Reader(page(document)), Reader(page(document, held=True))
        refresh = {"http-equiv": "refresh", "content": "5"}
        self.assertIn(refresh, live.all("meta"))
        self.assertNotIn("refresh", [meta.get("http-equiv") for meta in held.all("meta")])
        self.assertIn({"href": "/?held"}, live.all("a"))
        self.assertIn({"href": "/"}, held.all("a"))

    # Line ends and NUL are another matter: the parser itself changes them.
    text = st.text(st.characters(codec="utf-8", exclude_characters="\0\r")) | st.text("<>&'\"/a; ")

    def test_markup_in_names(self) -> None:
        row = BackendRow("<p>", "</th><script>", "&lt;", 0.0, 0, 0, False, False, 0)
        reader = Reader(page(status_document("</title><b>", "<i>", [row], {})))
        self.assertEqual(reader.rows[1][:3], ["<p>", "</th><script>", "&lt;"])
        self.assertEqual(reader.texts["title"], "</title><b>: DLBA status")
        self.assertEqual(reader.texts["h1"], "Node </title><b>")
        self.assertEqual({"script", "b", "i"} & {name for name, _ in reader.elements}, set())

    @given(text, text, text, text)
    def test_escapes(self, node: str, pool: str, name: str, address: str) -> None:
        row = BackendRow(pool, name, address, 0.0, 0, 0, False, False, 0)
        other = NodeRow(name, 1, pool, address, True, 1, 0, 0.0, 0, 0, False, False)
        part = routing("scheduler", [other])
        reader = Reader(page(status_document(node, address, [row], {}, part)))
        self.assertEqual(reader.rows[3][:4], [name, "1", address, pool])
        self.assertEqual(reader.rows[5][:3], [pool, name, address])
        self.assertEqual(reader.texts["title"], f"{node}: DLBA status")
