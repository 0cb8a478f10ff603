"""Tests of dlba.routing.former: a file that may be anything."""

import errno
import json
import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.errors import DLBAError
from dlba.routing.former import FILE, FormerSettings
from dlba.routing.needs import Change

CHANGES = (
    Change("sysctl", "all", "arp_ignore", 0, 1),
    Change("sysctl", "eth0.100", "rp_filter", 1, 2),
    Change("feature", "eth0.100", "rx-gro-hw", 1, 0),
    Change("address", "lo", "203.0.113.10", 0, 1),
)

#: Text for JSON with words of the format in it.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(("sysctl", "feature", "address", "lo", "..", "eth0", "rx-lro", "rp_filter"))
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


class FormerTests(SynchronousTestCase):
    def setUp(self):
        self.state = Path(self.mktemp())
        self.state.mkdir(parents=True)
        self.file = self.state / FILE
        self.former = FormerSettings(self.state)

    def test_written_and_read(self):
        self.assertIsNone(self.former.read())
        self.former.write("eth0.100", CHANGES)
        self.assertEqual(self.former.read(), ("eth0.100", CHANGES))
        self.assertEqual(self.file.stat().st_mode & 0o777, 0o600)
        self.former.write("eth1", ())
        self.assertEqual(self.former.read(), ("eth1", ()))
        self.assertEqual(list(self.state.iterdir()), [self.file])
        for _ in range(2):
            self.former.remove()
        self.assertEqual(list(self.state.iterdir()), [])

    def test_on_the_disk_before_it_has_its_name(self):
        synced = []

        def fsync(descriptor: int) -> None:
            synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), self.file.exists()))

        self.patch(os, "fsync", fsync)
        self.former.write("eth0", CHANGES)
        folder = str(self.state.absolute())
        self.assertEqual(synced, [(f"{folder}/{FILE}.new", False), (folder, True)])

    def test_a_full_disk(self):
        self.former.write("eth0", CHANGES)
        fsync, full = os.fsync, "new"

        def fails(descriptor: int) -> None:
            if os.readlink(f"/proc/self/fd/{descriptor}").endswith(full):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(descriptor)

        self.patch(os, "fsync", fails)
        error = self.assertRaises(OSError, self.former.write, "eth1", ())
        self.assertEqual(
            (error.errno, error.strerror, error.filename),
            (errno.ENOSPC, "No space left on device", str(self.file)),
        )
        self.assertEqual(list(self.state.iterdir()), [self.file])
        self.assertEqual(self.former.read(), ("eth0", CHANGES))
        full = self.state.name
        error = self.assertRaises(OSError, self.former.write, "eth1", ())
        self.assertEqual(error.filename, str(self.state))

    def test_no_room_for_a_byte(self):
        # Buffered bytes, refused when they are written, are tried once more by close().
        if not os.path.exists("/dev/full"):
            self.skipTest("/dev/full is missing")
        opened = os.open

        def full(path, flags, *more) -> int:
            descriptor = opened(path, flags, *more)
            if str(path).endswith(".new"):
                os.close(descriptor)
                return opened("/dev/full", os.O_WRONLY)
            return descriptor

        self.patch(os, "open", full)
        error = self.assertRaises(OSError, self.former.write, "eth0", CHANGES)
        self.assertEqual((error.errno, error.filename), (errno.ENOSPC, str(self.file)))
        self.assertEqual(list(self.state.iterdir()), [])

    def test_no_link_is_followed(self):
        victim = self.state / "victim"
        (self.state / f"{FILE}.new").symlink_to(victim)
        self.assertRaises(OSError, self.former.write, "eth0", CHANGES)
        self.assertFalse(victim.exists())

    def test_another_boot_another_namespace(self):
        self.former.write("eth0", CHANGES)
        document = json.loads(self.file.read_text())
        for key, value in (("boot", "another"), ("namespace", 1)):
            self.file.write_text(json.dumps(document | {key: value}))
            self.assertIsNone(self.former.read())

    def test_damaged(self):
        self.former.write("eth0", CHANGES)
        document = json.loads(self.file.read_text())
        wrong = (
            ["sysctl", "all", "forwarding", 0, 1],
            ["sysctl", "..", "rp_filter", 0, 1],
            ["sysctl", "a/b", "rp_filter", 0, 1],
            ["sysctl", "", "rp_filter", 0, 1],
            ["sysctl", "all", "rp_filter", True, 1],
            ["sysctl", "all", "rp_filter", "0", 1],
            ["sysctl", "all", "rp_filter", 0],
            ["feature", "eth0", "tx", 1, 0],
            ["address", "eth0", "203.0.113.10", 0, 1],
            ["address", "lo", "::1", 0, 1],
            ["address", "lo", None, 0, 1],
            ["file", "lo", "/etc/passwd", 0, 1],
            [["sysctl"], "all", "rp_filter", 0, 1],
            "sysctl",
            7,
            {},
        )
        texts = [json.dumps(document | {"changes": [change]}) for change in wrong]
        texts += [json.dumps(document | {"interface": name}) for name in (None, "", "a/b", 7)]
        texts += [json.dumps(document | {"changes": value}) for value in (None, 7, {"a": 1})]
        texts += [json.dumps({k: v for k, v in document.items() if k != key}) for key in document]
        texts += ["", "{", "[]", "null", "7", "\0", "[" * 5000, json.dumps(document) + " " * 65536]
        for text in texts:
            self.file.write_text(text)
            error = self.assertRaises(DLBAError, self.former.read)
            self.assertIn("expected the kernel's former settings, got something else", str(error))
        self.file.write_bytes(b"\xff\xfe")
        self.assertRaises(DLBAError, self.former.read)
        self.assertEqual(self.former.set_aside().read_bytes(), b"\xff\xfe")
        self.assertIsNone(self.former.read())

    @given(VALUES)
    def test_anything_is_told_or_understood(self, value):
        self.former.write("eth0", ())
        document = json.loads(self.file.read_text())
        for changes in (value, [value]):
            self.file.write_text(json.dumps(document | {"changes": changes}))
            try:
                self.former.read()
            except DLBAError:
                pass
