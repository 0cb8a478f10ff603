"""Fixtures of the end-to-end tests. Run them alone: `pytest tests/e2e`."""

from __future__ import annotations

import pytest
from parts import rig_in


@pytest.fixture
def rig(tmp_path):
    """Parts for one test."""
    with rig_in(tmp_path) as rig:
        yield rig


@pytest.fixture(scope="module")
def shared_rig(tmp_path_factory):
    """Parts for all tests of a module, which change nothing about them."""
    with rig_in(tmp_path_factory.mktemp("parts")) as rig:
        yield rig
