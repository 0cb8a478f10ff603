import os
import socket

from twisted.trial.unittest import SynchronousTestCase

from tests import namespaces


def here() -> str:
    return os.readlink("/proc/thread-self/ns/net")


def links() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


class NamespaceTests(SynchronousTestCase):
    skip = namespaces.missing()

    def test_a_fresh_namespace_and_back(self) -> None:
        before, own = here(), links()
        with namespaces.private():
            self.assertNotEqual(here(), before)
            self.assertEqual(links(), {"lo"})
            namespaces.pair("left", "right")
            self.assertEqual(links(), {"lo", "left", "right"})
        self.assertEqual((here(), links()), (before, own))

    def test_back_after_an_error(self) -> None:
        before = here()
        with self.assertRaises(ZeroDivisionError), namespaces.private():
            raise ZeroDivisionError
        self.assertEqual(here(), before)

    def test_a_link_between_two(self) -> None:
        with namespaces.private(), namespaces.private() as second:
            third = namespaces.Namespace()
            self.addCleanup(third.close)
            namespaces.pair("left", "right")
            third.take("right")
            self.assertEqual(links(), {"lo", "left"})
            with third.entered():
                self.assertEqual(links(), {"lo", "right"})
            with second.entered():
                self.assertEqual(links(), {"lo", "left"})

    def test_macs(self) -> None:
        with namespaces.private():
            namespaces.pair(macs=("02:00:00:00:00:01", "02:00:00:00:00:02"))
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
                raw.bind(("two", 0))
                self.assertEqual(raw.getsockname()[4], bytes.fromhex("020000000002"))

    def test_what_ip_says(self) -> None:
        with namespaces.private():
            error = self.assertRaises(AssertionError, namespaces.ip, "link set none up")
        self.assertIn("none", str(error))

    def test_no_descriptor_is_left(self) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with namespaces.private():
                namespaces.pair()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
