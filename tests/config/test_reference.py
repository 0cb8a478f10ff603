"""Tests of dlba.config.reference."""

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dlba.config.reference import reference_text
from dlba.config.schema import records
from dlba.config.shapes import keys
from dlba.config.values import NodeConfig

ROOT = Path(__file__).resolve().parents[2]
BEYOND = "Beyond what the contract shows."


class ReferenceTests(SynchronousTestCase):
    def rows(self):
        """Place and cells of every key, such as `web.sites[].hosts`."""
        section, found = "", {}
        for line in reference_text().splitlines():
            if line.startswith("#"):
                section = "" if line.startswith("# ") else f"{line[3:]}."
            elif line.startswith("| `"):
                cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
                found[section + cells[0].strip("`")] = cells[1:]
        return found

    def test_the_file_is_what_the_code_says(self):
        written = ROOT.joinpath("docs/configuration.md").read_text("utf-8")
        self.assertEqual(
            written,
            reference_text(),
            "run: python -m dlba.config.reference > docs/configuration.md",
        )

    def test_every_key_is_there(self):
        rows = self.rows()
        names = {place.rpartition(".")[2] for place in rows}
        for cls in (NodeConfig, *records(NodeConfig)):
            for name, _, key in keys(cls):
                if not key.entry:
                    self.assertIn(name, names)
        for place in (
            "node",
            "channel.listen",
            "nodes.NAME.mac",
            "web.sites[].response_headers.set",
            "web.pools.NAME.backends.NAME.weight",
            "web.pools.NAME.check.timeout",
        ):
            self.assertIn(place, rows)

    def test_every_cell_says_something(self):
        for place, (kind, _, default, meaning, wrong) in self.rows().items():
            for cell in (kind, meaning, wrong):
                self.assertTrue(cell, place)
            self.assertTrue(default or place == "web.pools.NAME.hash_key", place)

    def test_what_stands_in_a_row(self):
        self.assertEqual(
            self.rows()["web.limits.buffer_memory"][1:3],
            ["bytes", "256MiB"],
        )
        self.assertEqual(self.rows()["web.timeouts.tunnel"][1:3], ["s", "3600"])
        self.assertEqual(self.rows()["node"][2], "required")

    def test_what_goes_beyond_the_contract(self):
        beyond = {place for place, cells in self.rows().items() if BEYOND in cells[3]}
        self.assertEqual(
            beyond,
            {
                "nodes.NAME.channel",
                "routing.other",
                "web.via",
                "web.pools.NAME.backend_close",
                "web.pools.NAME.hash_key",
                "web.pools.NAME.check.timeout",
                "web.pools.NAME.check.host",
            },
        )
