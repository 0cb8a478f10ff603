"""The `/status` document against the outside contract."""

import json

from twisted.trial.unittest import SynchronousTestCase

from dlba.monitor.status import (
    ArrayStatus,
    BackendRow,
    NodeRow,
    RoutingStatus,
    SummaryRow,
    status_document,
)

ROW = BackendRow("app", "app1", "10.0.1.1:8080", 0.011, 511, 3, False, True, 17)


class StatusDocument(SynchronousTestCase):
    """An array of one, and a node that takes part in routing."""

    def test_document(self) -> None:
        other = BackendRow("caches", "c", "[::1]:80", 0.0, 0, 0, True, False, 0)
        document = status_document("a", "203.0.113.10", iter([ROW, other]), {"requests": 5})
        self.assertEqual(
            json.loads(json.dumps(document, allow_nan=False)),
            {
                "node": "a",
                "role": "alone",
                "term": 0,
                "scheduler": None,
                "vip": "203.0.113.10",
                "config_version": 0,
                "table": None,
                "swept_at": None,
                "nodes": [],
                "peers": [],
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

    def test_scheduler(self) -> None:
        """The contract's own example, keys and their order included."""
        text = """
            {"name": "a", "number": 0, "mac": "02:00:00:00:00:0a", "address": "10.0.0.1",
             "enabled": true, "weight": 1, "groups": 271, "average_response": 0.012,
             "hits": 90412, "open_connections": 31, "failed": false, "draining": false}"""
        row = NodeRow(
            name="a",
            number=0,
            mac="02:00:00:00:00:0a",
            address="10.0.0.1",
            enabled=True,
            weight=1,
            groups=271,
            average_response=0.012,
            hits=90412,
            open_connections=31,
            failed=False,
            draining=False,
        )
        routing = RoutingStatus("scheduler", [row], 65536, 812, 1041, 1790000000.0)
        document = status_document("a", "203.0.113.10", [], {}, routing)
        self.assertEqual(document["role"], "scheduler")
        self.assertEqual(document["table"], {"buckets": 65536, "assigned": 812, "version": 1041})
        self.assertEqual(document["swept_at"], 1790000000.0)
        (shown,) = json.loads(json.dumps(document, allow_nan=False))["nodes"]
        self.assertEqual(list(shown.items()), list(json.loads(text).items()))

    def test_only_the_scheduler_has_a_server_status_table(self) -> None:
        row = NodeRow("b", 1, "02:00:00:00:00:0b", "10.0.0.2", True, 1, 0, 0.0, 0, 0, False, False)
        for role in ("backup", "fault"):
            routing = RoutingStatus(role, [row], 65536, 3, 4, 1790000000.0)
            document = status_document("a", None, [ROW], {}, routing)
            self.assertEqual((document["role"], document["nodes"]), (role, []))
            self.assertIsNone(document["swept_at"])
            self.assertEqual(document["table"], {"buckets": 65536, "assigned": 3, "version": 4})
            self.assertEqual(len(document["backends"]), 1)

    def test_array(self) -> None:
        """The contract's own summary row; what only the scheduler may tell, only it tells."""
        text = """
            {"pool": "app", "name": "app1", "address": "10.0.1.1:8080", "cookie_groups": 17,
             "hits": 1502, "open_connections": 9}"""
        summary = [SummaryRow("app", "app1", "10.0.1.1:8080", 17, 1502, 9)]
        peers = {"b": {"connected": True}, "c": {"connected": False, "failed": True}}
        for role, name in (("scheduler", "a"), ("backup", "b"), ("fault", None)):
            routing = RoutingStatus(role, [], 65536, 3, 4)
            array = ArrayStatus(4, name, peers, summary)
            document = status_document("a", None, [], {}, routing, array)
            document = json.loads(json.dumps(document, allow_nan=False))
            self.assertEqual((document["term"], document["scheduler"]), (4, name))
            self.assertEqual(
                document["peers"],
                [
                    {"name": "b", "connected": True},
                    {"name": "c", "connected": False, "failed": True},
                ],
            )
            shown = [list(row.items()) for row in document["summary"]]
            expected = [list(json.loads(text).items())] if role == "scheduler" else []
            self.assertEqual(shown, expected, role)

    def test_the_configured_scheduler_follows_itself(self) -> None:
        for role, name in (("scheduler", "a"), ("backup", None), ("fault", None)):
            document = status_document("a", None, [], {}, RoutingStatus(role, [], 1, 0, 0))
            self.assertEqual((document["scheduler"], document["term"]), (name, 0), role)

    def test_nothing_is_shared(self) -> None:
        """A document is a moment: counting on changes none that was given out."""
        counters = {"requests": 1}
        document = status_document("a", None, [], counters)
        counters["requests"] = 2
        self.assertEqual(document["counters"], {"requests": 1})
        self.assertIsNone(document["vip"])
