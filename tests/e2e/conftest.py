"""Fixtures of the end-to-end tests. Run them alone: `pytest tests/e2e`."""

from __future__ import annotations

import time

import pytest
from labs import NO_CHANNEL, lab_up
from parts import rig_in


def pytest_configure(config):
    config.addinivalue_line("markers", "late: runs after all tests without this mark")


def pytest_collection_modifyitems(items):
    """What waits for minutes does so while others run."""
    items.sort(key=lambda item: item.get_closest_marker("late") is not None)


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


@pytest.fixture(scope="session")
def array():
    """A lab of three nodes that no test harms; see `idle`."""
    with lab_up("array", NO_CHANNEL, "routing.bucket_timeout=30", "web.timeouts.idle=900") as lab:
        yield lab


@pytest.fixture(scope="session")
def idle(array):
    """(since when, {node: its sessions}): TLS connections that do nothing until the last test."""
    sessions = {node: [array.session_on(node, tls=True) for _ in range(2)] for node in array.macs}
    for kept in sessions.values():
        for session in kept:
            assert session.ask().status == 200
    yield time.monotonic(), sessions
    for kept in sessions.values():
        for session in kept:
            session.close()
