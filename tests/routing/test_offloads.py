"""Tests of dlba.routing.offloads. The program ethtool tells otherwise what is on."""

import shutil
import subprocess

from twisted.trial.unittest import SynchronousTestCase

from dlba.routing.needs import Feature
from dlba.routing.offloads import read_features, switch_feature
from tests import namespaces
from tests.routing.machines import MachineTest


class OffloadTests(MachineTest, SynchronousTestCase):
    skip = namespaces.missing()

    def test_read(self):
        found = read_features("eth0", ["rx-gro", "rx-lro", "no-such-thing"])
        self.assertEqual(set(found), {"rx-gro", "rx-lro"})
        self.assertTrue(found["rx-gro"].changeable)
        self.assertEqual(found["rx-lro"], Feature(False, False, changeable=False))

    def test_switch(self):
        for on in (False, True, False):
            switch_feature("eth0", "rx-gro", on)
            found = read_features("eth0", ["rx-gro", "rx-gro-list"])
            self.assertEqual(found["rx-gro"], Feature(on, on, changeable=True))
            self.assertEqual(found["rx-gro-list"], Feature(False, False, changeable=True))

    def test_all_as_ethtool_says(self):
        if shutil.which("ethtool") is None:
            self.skipTest("ethtool (Debian package ethtool) is missing")
        run = subprocess.run(["ethtool", "-k", "eth0"], capture_output=True, text=True, timeout=20)
        told = {}
        for line in run.stdout.splitlines()[1:]:
            name, _, state = line.strip().partition(": ")
            told[name] = state
        # ethtool has its own names for these.
        told["rx-gro"] = told["generic-receive-offload"]
        told["rx-lro"] = told["large-receive-offload"]
        found = read_features("eth0", told)
        self.assertGreater(len(found), 30)
        for name, feature in found.items():
            self.assertEqual(feature.active, told[name].startswith("on"), name)
            self.assertEqual(feature.changeable, "[fixed]" not in told[name], name)

    def test_no_such_interface(self):
        error = self.assertRaises(OSError, read_features, "eth9", ["rx-gro"])
        self.assertEqual(error.errno, 19)
        self.assertRaises(OSError, switch_feature, "eth9", "rx-gro", False)
