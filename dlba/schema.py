"""Runs `dlba schema`: prints a JSON Schema of a configuration file, for editors."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

__all__ = ["add_schema"]


def add_schema(commands: Any) -> None:
    """Declare `dlba schema`."""
    parser = commands.add_parser(
        "schema",
        help="print a JSON Schema of the configuration, for editors",
        description="Print a JSON Schema (draft 2020-12) of node.yaml, for editors that complete "
        "and check YAML as it is written. Whether a node takes a file is told by "
        "twistd dlba -c node.yaml -t.",
    )
    parser.add_argument("--array", action="store_true", help="of array.yaml instead of node.yaml")
    parser.set_defaults(run=_run_schema)


def _run_schema(args: argparse.Namespace) -> int:
    from dlba.config.schema import array_schema, node_schema

    schema = array_schema() if args.array else node_schema()
    sys.stdout.write(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")
    return 0
