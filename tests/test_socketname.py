"""Tests of dlba.socketname, with real sockets."""

import socket
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dlba.socketname import socket_name


class NameTests(SynchronousTestCase):
    def test_a_short_path_is_its_own_name(self):
        with socket_name(Path("/run/x/control")) as name:
            self.assertEqual(name, "/run/x/control")

    def test_a_long_path_can_be_bound_and_found(self):
        folder = Path(self.mktemp()).absolute() / ("deep" * 30)
        folder.mkdir(parents=True)
        path = folder / "control"
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            self.assertRaises(OSError, server.bind, str(path))
            with socket_name(path) as name:
                self.assertLessEqual(len(name), 107)
                server.bind(name)
            server.listen()
            self.assertTrue(path.is_socket())
            with socket_name(path) as name:
                client.connect(name)

    def test_no_such_folder(self):
        with self.assertRaises(FileNotFoundError), socket_name(Path("/no" * 60) / "control"):
            pass
