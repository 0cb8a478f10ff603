"""Tests of `dlba schema`."""

import json

from twisted.trial.unittest import SynchronousTestCase

from dlba.config.schema import array_schema, node_schema
from tests.test_cli import run


class SchemaCommandTests(SynchronousTestCase):
    def test_prints_what_there_is(self):
        for arguments, schema in (((), node_schema()), (("--array",), array_schema())):
            code, out, err = run("schema", *arguments)
            self.assertEqual((code, err), (0, ""))
            self.assertEqual(json.loads(out), schema)

    def test_takes_no_file(self):
        self.assertEqual(run("schema", "node.yaml")[0], 2)
