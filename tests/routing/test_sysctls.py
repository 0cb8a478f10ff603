"""Tests of dlba.routing.sysctls, on the sysctls of a private namespace."""

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dlba.routing import sysctls
from tests import namespaces
from tests.routing.machines import MachineTest

ROOT = Path(__file__).resolve().parent.parent.parent


class SysctlTests(MachineTest, SynchronousTestCase):
    skip = namespaces.missing()

    def test_read_and_write(self):
        self.assertEqual(sysctls.read_sysctl("eth0", "arp_ignore"), 0)
        sysctls.write_sysctl("eth0", "arp_ignore", 8)
        self.assertEqual(sysctls.read_sysctl("eth0", "arp_ignore"), 8)
        text = Path("/proc/sys/net/ipv4/conf/eth0/arp_ignore").read_text()
        self.assertEqual(text, "8\n")

    def test_devices_that_aren_t_there(self):
        self.assertIsNone(sysctls.read_sysctl("eth9", "arp_ignore"))
        names = [("eth0", "rp_filter"), ("eth9", "rp_filter"), ("all", "rp_filter")]
        self.assertEqual(
            sysctls.read_all(names), {("eth0", "rp_filter"): 1, ("all", "rp_filter"): 1}
        )
        self.assertRaises(OSError, sysctls.write_sysctl, "eth9", "arp_ignore", 1)
        sysctls.silence_ipv6("eth9")

    def test_ipv6(self):
        setting = Path("/proc/sys/net/ipv6/conf/eth0/disable_ipv6")
        if not setting.exists():
            self.skipTest("the kernel has no IPv6")
        setting.write_text("0")
        sysctls.silence_ipv6("eth0")
        self.assertEqual(setting.read_text(), "1\n")

    def test_who_may_write(self):
        self.assertIsNone(sysctls.unwritable())
        code = (
            "import os\nfrom dlba.routing.sysctls import unwritable\n"
            "os.setgid(65534); os.setuid(65534)\nprint(unwritable())"
        )
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(run.stdout, "Permission denied\n", run.stderr)
