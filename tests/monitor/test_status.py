"""The `/status` document against the outside contract."""

import json

from twisted.trial.unittest import SynchronousTestCase

from dlba.monitor.status import BackendRow, status_document

ROW = BackendRow("app", "app1", "10.0.1.1:8080", 0.011, 511, 3, False, True, 17)


class StatusDocument(SynchronousTestCase):
    """An array of one."""

    def test_document(self) -> None:
        other = BackendRow("caches", "c", "[::1]:80", 0.0, 0, 0, True, False, 0)
        document = status_document("a", "203.0.113.10", iter([ROW, other]), {"requests": 5})
        self.assertEqual(
            json.loads(json.dumps(document, allow_nan=False)),
            {
                "node": "a",
                "role": "alone",
                "term": 0,
                "vip": "203.0.113.10",
                "config_version": 0,
                "table": None,
                "swept_at": None,
                "nodes": [],
                "backends": [
                    {
                        "pool": "app",
                        "name": "app1",
                        "address": "10.0.1.1:8080",
                        "average_response": 0.011,
                        "hits": 511,
                        "open_connections": 3,
                        "failed": False,
                        "draining": True,
                        "cookie_groups": 17,
                    },
                    {
                        "pool": "caches",
                        "name": "c",
                        "address": "[::1]:80",
                        "average_response": 0.0,
                        "hits": 0,
                        "open_connections": 0,
                        "failed": True,
                        "draining": False,
                        "cookie_groups": 0,
                    },
                ],
                "summary": [],
                "counters": {"requests": 5},
            },
        )

    def test_nothing_is_shared(self) -> None:
        """A document is a moment: counting on changes none that was given out."""
        counters = {"requests": 1}
        document = status_document("a", None, [], counters)
        counters["requests"] = 2
        self.assertEqual(document["counters"], {"requests": 1})
        self.assertIsNone(document["vip"])
