"""Tests of dlba.state: the folder, and the keys in it."""

import errno
import os
import stat
from pathlib import Path
from unittest import mock

import attrs
from twisted.trial.unittest import SynchronousTestCase

from dlba.config.keys import parse_keys
from dlba.config.load import load_text
from dlba.election.keyring import Keyring
from dlba.errors import DLBAError
from dlba.state import (
    load_drained,
    load_keys,
    load_learned,
    lock_state,
    make_state,
    reload_keys,
    store_drained,
    store_learned,
)
from tests.web.harness import configuration


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class Keys(SynchronousTestCase):
    """The keys that sign route tokens."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def config(self, **node):
        return load_text(configuration([9], node=node), self.folder)

    def test_made_at_first_start_and_kept(self):
        config = self.config()
        first = load_keys(config)
        path = self.folder / "state" / "secrets"
        self.assertEqual((mode(path), mode(path.parent)), (0o600, 0o700))
        self.assertEqual(load_keys(config), first)
        self.assertEqual(len(first.signing), 1)
        self.assertGreaterEqual(len(first.signing[0].key), 32)
        # Nobody else gets the same.
        path.unlink()
        self.assertNotEqual(load_keys(config), first)

    def test_folder_that_was_there_keeps_its_mode(self):
        state = self.folder / "deep" / "state"
        state.mkdir(parents=True)
        state.chmod(0o750)
        load_keys(self.config(state="deep/state"))
        self.assertEqual(mode(state), 0o750)
        self.assertEqual(mode(state / "secrets"), 0o600)

    def test_folder_that_everybody_can_write_to_is_refused(self):
        state = self.folder / "state"
        state.mkdir()
        state.chmod(0o1777)
        error = self.assertRaises(DLBAError, load_keys, self.config())
        self.assertIn("not everybody can write", str(error))
        self.assertEqual(list(state.iterdir()), [])

    def test_keys_are_whole_or_not_there(self):
        config = self.config()
        with mock.patch("os.fsync", side_effect=OSError(errno.ENOSPC, "No space left")):
            self.assertRaises(OSError, load_keys, config)
        self.assertEqual(list((self.folder / "state").iterdir()), [])
        self.assertEqual(len(load_keys(config).signing), 1)

    def test_named_file_is_read_and_never_made(self):
        config = attrs.evolve(self.config(), secrets=self.folder / "keys")
        with self.assertRaises(FileNotFoundError):
            load_keys(config)
        self.assertFalse((self.folder / "keys").exists())
        (self.folder / "keys").write_text("# ours\nnew " + "n" * 32 + "\nold " + "o" * 40 + "\n")
        self.assertEqual([key.id for key in load_keys(config).signing], ["new", "old"])
        self.assertFalse((self.folder / "state").exists())

    def test_mistakes_name_file_and_line_and_no_key(self):
        config = attrs.evolve(self.config(), secrets=self.folder / "keys")
        secret = "s" * 31
        for text, where in ((f"a {'k' * 32}\nb {secret}\n", "line 2"), ("", "expected 1 to")):
            (self.folder / "keys").write_text(text)
            with self.assertRaises(DLBAError) as caught:
                load_keys(config)
            message = str(caught.exception)
            self.assertIn(str(self.folder / "keys"), message)
            self.assertIn(where, message)
            self.assertNotIn(secret, message)
        (self.folder / "keys").write_bytes(b"a \xff" + b"k" * 32)
        with self.assertRaises(DLBAError) as caught:
            load_keys(config)
        self.assertIn("ASCII", str(caught.exception))

    def test_empty_file_left_by_a_crash(self):
        """Never taken for keys: cookies signed with nothing would be anybody's."""
        (self.folder / "state").mkdir()
        (self.folder / "state" / "secrets").write_text("")
        with self.assertRaises(DLBAError):
            load_keys(self.config())

    def test_several_nodes_need_secrets_that_they_share(self):
        config = self.config()
        nodes = {"a": object(), "b": object()}
        several = attrs.evolve(config, array=attrs.evolve(config.array, nodes=nodes))
        error = self.assertRaises(DLBAError, load_keys, several)
        self.assertIn("the same on every node, got no file", str(error))
        self.assertFalse((self.folder / "state" / "secrets").exists())

    def test_with_a_channel_each_node_makes_its_own(self):
        config = self.config()
        nodes = {"a": object(), "b": object()}
        array = attrs.evolve(config.array, nodes=nodes)
        several = attrs.evolve(config, array=array, channel=object())
        keys = load_keys(several)
        self.assertEqual(len(keys.signing), 1)
        self.assertEqual(mode(self.folder / "state" / "secrets"), 0o600)
        self.assertEqual(load_keys(several), keys)
        named = attrs.evolve(several, secrets=self.folder / "keys")
        self.assertRaises(FileNotFoundError, load_keys, named)

    def test_with_a_channel_the_hash_key_may_be_another_nodes(self):
        config = self.config()
        (self.folder / "keys").write_text("a " + "x" * 32 + "\n")
        routing = attrs.evolve(config.array.routing, hash="keyed")
        array = attrs.evolve(config.array, nodes={"a": object()}, routing=routing)
        config = attrs.evolve(config, array=array, channel=object(), secrets=self.folder / "keys")
        first, second = load_keys(config), load_keys(config)
        self.assertEqual(first.signing, second.signing)
        self.assertGreaterEqual(len(first.hash), 32)
        self.assertNotEqual(first.hash, second.hash, "nobody can know it")

    def test_keyed_hash_needs_its_key(self):
        config = self.config()
        self.assertIsNotNone(load_keys(config).hash)
        path = self.folder / "state" / "secrets"
        path.write_text("a " + "x" * 32 + "\n")
        routing = attrs.evolve(config.array.routing, hash="keyed")
        keyed = attrs.evolve(
            config, array=attrs.evolve(config.array, nodes={"a": object()}, routing=routing)
        )
        error = self.assertRaises(DLBAError, load_keys, keyed)
        self.assertIn("expected a key with the id hash", str(error))


class LearnedTests(SynchronousTestCase):
    """What other nodes told of their keys."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        make_state(self.folder)

    def test_kept_private(self):
        self.assertEqual(load_learned(self.folder), "")
        for text in ("first\n", "second\n"):
            store_learned(self.folder, text)
            self.assertEqual(load_learned(self.folder), text)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["learned"])
        self.assertEqual(mode(self.folder / "learned"), 0o600)

    def test_whole_or_as_before(self):
        store_learned(self.folder, "first")
        for call in ("os.fsync", "os.replace"):
            with mock.patch(call, side_effect=OSError(errno.ENOSPC, "No space left")):
                self.assertRaises(OSError, store_learned, self.folder, "second")
            self.assertEqual(load_learned(self.folder), "first")
            self.assertEqual(len(list(self.folder.iterdir())), 1, "no half file stays")

    def test_another_file(self):
        path = self.folder / "learned"
        for data in (b"\xff", b"a" * ((1 << 20) + 1)):
            path.write_bytes(data)
            self.assertRaises(DLBAError, load_learned, self.folder)
        path.unlink()
        path.symlink_to(self.folder / "elsewhere")
        self.assertRaises(OSError, load_learned, self.folder)

    def test_a_keyring_over_a_restart(self):
        ring = Keyring(parse_keys("a " + "x" * 32))
        ring.learn(1, b"b " + b"y" * 32 + b"\n")
        store_learned(self.folder, ring.stored())
        again = Keyring(parse_keys("a " + "x" * 32), load_learned(self.folder))
        self.assertEqual([key.id for key in again.signing], ["a", "b"])


class DrainedTests(SynchronousTestCase):
    """Which backends were asked to drain."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        make_state(self.folder)
        self.path = self.folder / "drained"

    def test_kept_private(self):
        self.assertEqual(load_drained(self.folder), frozenset())
        for backends in ({("app", "b"), ("app", "a.1")}, {("x", "y")}, set()):
            store_drained(self.folder, backends)
            self.assertEqual(load_drained(self.folder), backends)
        self.assertEqual(mode(self.path), 0o600)

    def test_whole_or_as_before(self):
        store_drained(self.folder, {("app", "a")})
        for call in ("os.fsync", "os.replace"):
            with mock.patch(call, side_effect=OSError(errno.ENOSPC, "No space left")):
                self.assertRaises(OSError, store_drained, self.folder, {("app", "b")})
            self.assertEqual(load_drained(self.folder), {("app", "a")})
            self.assertEqual(len(list(self.folder.iterdir())), 1, "no half file stays")

    def test_file_and_folder_are_synced(self):
        synced = []
        with mock.patch("os.fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}"))):
            store_drained(self.folder, {("app", "a")})
        self.assertEqual([Path(path).is_dir() for path in synced], [False, True])

    def test_another_file(self):
        for text in (
            "[]",
            "{",
            "1" * 5000,
            "[" * 99999,
            '{"format": 2, "backends": []}',
            '{"format": 1}',
            '{"format": 1, "backends": ["app"]}',
            '{"format": 1, "backends": ["a/b/c"]}',
            '{"format": 1, "backends": [1]}',
            '{"format": 1, "backends": 1}',
            "\xe4",
            "x" * (1 << 20) + "x",
        ):
            self.path.write_text(text)
            error = self.assertRaises(DLBAError, load_drained, self.folder)
            self.assertIn(str(self.path), str(error))


class ReloadKeysTests(SynchronousTestCase):
    def test_what_is_there_now(self):
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        config = load_text('{"node": "a", "array": {"name": "x"}}', folder)
        first = load_keys(config)
        self.assertEqual(reload_keys(config), first)
        path = folder / "state" / "secrets"
        path.write_text("new " + "x" * 32 + "\n" + path.read_text())
        ids = [key.id for key in reload_keys(config).signing]
        self.assertEqual(ids, ["new", first.signing[0].id])
        path.write_text("new\n")
        self.assertRaises(DLBAError, reload_keys, config)
        path.unlink()
        self.assertIsNone(reload_keys(config))
        self.assertFalse(path.exists(), "nothing is made up")
        named = attrs.evolve(config, secrets=path)
        self.assertRaises(OSError, reload_keys, named)


class LockTests(SynchronousTestCase):
    def test_one_process_at_a_time(self):
        folder = Path(self.mktemp())
        make_state(folder)
        first = lock_state(folder)
        error = self.assertRaises(DLBAError, lock_state, folder)
        self.assertIn("that of a running node", str(error))
        os.close(first)
        os.close(lock_state(folder))
        self.assertEqual(mode(folder / "lock"), 0o600)

    def test_a_link_isn_t_followed(self):
        folder = Path(self.mktemp())
        make_state(folder)
        (folder / "lock").symlink_to(folder / "elsewhere")
        self.assertRaises(OSError, lock_state, folder)
