"""Tests of dlba.lab.programs: real processes in real namespaces, and the folder that knows them."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

from dlba.config.keys import parse_keys
from dlba.errors import DLBAError
from dlba.lab import network, programs
from dlba.lab.plan import namespace
from tests.lab.labs import NAME, LabCase, ended, stand_in


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


class FolderTests(LabCase):
    def test_files(self):
        made = self.files()
        here = programs.folder(NAME)
        self.assertEqual(
            sorted(path.name for path in here.iterdir()),
            ["a", "app1", "array.yaml", "ca", "lab.json", "lab.key", "lab.pem"],
        )
        self.assertEqual(
            sorted(path.name for path in (here / "ca").iterdir()),
            ["a.key", "a.pem", "ca.key", "ca.pem"],
        )
        self.assertEqual(mode(here / "lab.key"), 0o600)
        self.assertEqual(programs.read_lab(NAME), made)
        self.assertEqual((made.vip, made.web, made.channel), ("203.0.113.10", True, True))
        self.assertEqual(made.ready, {"a": "/readyz"})

    def test_values_that_matter_later(self):
        made = self.files(web=None, vip=None)
        self.assertEqual(programs.read_lab(NAME), made)
        self.assertEqual((made.vip, made.web, made.ready), (None, False, {"a": "/healthz"}))

    def test_without_a_channel(self):
        made = self.files(name=None)
        self.assertEqual(programs.read_lab(NAME), made)
        self.assertIs(made.channel, False)
        keys = parse_keys((programs.folder(NAME) / "secrets").read_text())
        self.assertEqual((len(keys.signing), len(keys.hash)), (1, 64))
        self.assertFalse((programs.folder(NAME) / "ca").exists())
        self.assertNotIn("channel", (programs.folder(NAME) / "a" / "node.yaml").read_text())

    def test_a_vip_that_is_none(self):
        self.assertIsNone(self.files(vip="x").vip)

    def test_no_lab(self):
        error = self.assertRaises(DLBAError, programs.read_lab, NAME)
        self.assertEqual(str(error), f"lab {NAME}: expected a lab that is up, got none")

    def test_what_is_left_of_a_lab(self):
        network.create((namespace(NAME, "a"),))
        error = self.assertRaises(DLBAError, programs.read_lab, NAME)
        self.assertIn("got what is left of a lab: take it down", str(error))
        programs.folder(NAME).mkdir(parents=True)
        for text in ("", "{}", '{"nodes": 99}', '{"nodes": 99, "vip": 1, "ready": {}, "web": 1}'):
            (programs.folder(NAME) / "lab.json").write_text(text)
            self.assertRaises(DLBAError, programs.read_lab, NAME)

    def test_exists(self):
        self.assertFalse(programs.exists(NAME))
        programs.folder(NAME).mkdir(parents=True)
        self.assertFalse(programs.exists(NAME))
        (programs.folder(NAME) / "lab.json").touch()
        self.assertTrue(programs.exists(NAME))
        programs.remove_files(NAME)
        self.assertFalse(programs.exists(NAME))
        network.create((namespace(NAME, "a"),))
        self.assertTrue(programs.exists(NAME))

    def test_the_folder_of_all_stays_while_there_is_another(self):
        for name in (NAME, "other"):
            programs.folder(name).mkdir(parents=True, exist_ok=True)
        programs.remove_files(NAME)
        self.assertTrue(programs.folder("other").exists())
        programs.remove_files("other")
        self.assertFalse(programs.FOLDER.exists())


class HeldTests(LabCase):
    def test_only_one(self):
        with programs.held(NAME, make=True):
            self.assertEqual(mode(programs.folder(NAME)), 0o700)
            self.assertEqual(mode(programs.FOLDER), 0o700)
            error = self.assertRaises(DLBAError, programs.held(NAME).__enter__)
            self.assertIn("another dlba lab command is at work on it", str(error))
            with programs.held("other", make=True), programs.together():
                programs.folder("other").rmdir()
        with programs.held(NAME):
            pass

    def test_a_lab_that_is_not_there(self):
        error = self.assertRaises(DLBAError, programs.held(NAME, wait=9).__enter__)
        self.assertIn("expected a lab that is up, got none", str(error))

    def test_waits(self):
        with programs.held(NAME, make=True):
            self.waiter(make=False)
        self.assertEqual(self.wait_for_it(), "held")

    def test_what_was_removed_meanwhile(self):
        """Who waits for a folder that is then removed must not hold what nobody else can see."""
        for make, expected in ((True, "held"), (False, "got none")):
            with programs.held(NAME, make=True):
                self.waiter(make)
                programs.remove_files(NAME)
            self.assertIn(expected, self.wait_for_it())

    def waiter(self, make):
        """A thread that holds the lab as soon as it can."""
        self.told = []

        def wait():
            started.set()
            try:
                with programs.held(NAME, make=make, wait=20):
                    self.told.append("held" if programs.folder(NAME).exists() else "nothing")
            except DLBAError as error:
                self.told.append(str(error))

        started = threading.Event()
        self.thread = threading.Thread(target=wait)
        self.thread.start()
        started.wait(20)

    def wait_for_it(self):
        self.thread.join(20)
        return self.told[0]


class ProcessTests(LabCase):
    def setUp(self):
        super().setUp()
        self.files()
        self.connected()

    def start(self, part):
        process = programs.start(NAME, part)
        self.addCleanup(process.wait, 20)
        self.addCleanup(process.kill)
        return process

    def test_a_real_backend(self):
        """Started, asked from within, killed, started again."""
        page = network.Page("10.0.1.1", 8080, "/")
        for _ in range(2):
            process = self.start(self.app1)
            self.assertEqual(programs.running(NAME, "app1"), process.pid)
            where = network.identity_of_process(process.pid)
            self.assertEqual(where, network.identity(namespace(NAME, "app1")))
            self.assertEqual(os.getsid(process.pid), process.pid)
            programs.wait_ready(self.made, {"app1": process}, 60)
            status, body = network.ask(NAME, {"app1": page})["app1"]
            self.assertEqual((status, b"app1" in body), (200, True))
            programs.kill(NAME, "app1")
            self.assertTrue(ended(process.pid))
            self.assertIsNone(programs.running(NAME, "app1"))
        error = self.assertRaises(DLBAError, programs.kill, NAME, "app1")
        self.assertIn("app1: expected a program that runs, got none", str(error))

    def test_command_of_a_node(self):
        here = programs.folder(NAME) / "a"
        command = programs._command(here, self.a)
        self.assertEqual(command[0], sys.executable)
        self.assertEqual(command[-5:], ["-n", "--pidfile=", "dlba", "-c", str(here / "node.yaml")])
        for executable in (sys.executable, "/nowhere/python"):
            self.patch(sys, "executable", executable)
            *start, _, _, _, _, _ = programs._command(here, self.a)
            done = subprocess.run(
                [command[0], *start[1:], "--version"], capture_output=True, text=True, timeout=60
            )
            self.assertIn("twistd", done.stdout)

    def test_environment(self):
        self.patch(os, "environ", {"DLBA_CONTROL": "x", "http_proxy": "y", "A": "b"})
        env = programs._environment()
        self.assertEqual({name: env[name] for name in env if name != "PYTHONPATH"}, {"A": "b"})

    def test_program_that_ends(self):
        code = "print('\\033[2Jwhy'); raise SystemExit(3)"
        self.patch(programs, "_command", lambda here, part: [sys.executable, "-c", code])
        process = self.start(self.a)
        error = self.assertRaises(DLBAError, programs.wait_ready, self.made, {"a": process}, 60)
        self.assertEqual(
            str(error),
            f"lab {NAME}: a: ended with code 3; the end of its log:\n  \\x1b[2Jwhy",
        )

    def test_program_that_is_never_ready(self):
        self.patch(programs, "_command", lambda here, part: stand_in(part))
        process = self.start(self.a)
        error = self.assertRaises(DLBAError, programs.wait_ready, self.made, {"a": process}, 0.3)
        self.assertIn("a: /readyz isn't 200 after 0 s; the end of its log:", str(error))

    def test_a_node_without_a_link_is_asked_whether_it_serves(self):
        self.assertEqual(programs.ready_page(self.made, self.a).path, "/readyz")
        network.set_port(NAME, "front-a", False)
        self.until("no carrier", lambda: not network.has_link(namespace(NAME, "a"), "eth0"))
        self.assertEqual(programs.ready_page(self.made, self.a).path, "/healthz")

    def test_log(self):
        log = programs.folder(NAME) / "a" / "log"
        self.assertEqual(programs.log_tail(NAME, "a"), [])
        log.write_bytes(b"".join(b"line %d\n" % n for n in range(5000)) + b"\xff\x07")
        self.assertEqual(programs.log_tail(NAME, "a")[-2:], ["line 4999", "\ufffd\\x07"])
        self.assertEqual(len(programs.log_tail(NAME, "a")), programs.TAIL)

    def test_status_documents(self):
        self.stand_in(a='{"role": "backup"}')
        process = self.start(self.a)
        self.until("answers", lambda: programs.ask_status(NAME, ["a"])["a"])
        self.assertEqual(
            programs.ask_status(NAME, ["a", "x"]), {"a": {"role": "backup"}, "x": None}
        )
        for text in ("[1]", "{", "\udcff"):
            path = programs.folder(NAME) / "a" / "answer"
            path.write_bytes(text.encode("utf-8", "surrogateescape"))
            self.assertEqual(programs.ask_status(NAME, ["a"]), {"a": None})
        self.assertIsNone(process.poll())

    # Who is who

    def test_a_pid_that_is_used_again(self):
        pid = self.sleeper("client")
        start = programs.start_time(pid)
        path = programs.folder(NAME) / "a" / "process"
        for text, expected in (
            (f"{pid} {start}", pid),
            (f"{pid} {start - 1}", None),
            (f"{pid} 0", None),
            (f"{pid}", None),
            ("", None),
        ):
            path.write_text(text)
            self.assertEqual(programs.running(NAME, "a"), expected, text)
        path.write_text(f"{pid} {start - 1}")
        self.assertRaises(DLBAError, programs.kill, NAME, "a")
        programs._kill([programs.Process(pid, start - 1)])
        self.assertFalse(ended(pid))

    def test_start_time(self):
        self.assertIsNotNone(programs.start_time(os.getpid()))
        child = os.fork()
        if not child:
            os._exit(0)
        self.until("is a zombie", lambda: ended(child))
        self.assertIsNone(programs.start_time(child))
        os.waitpid(child, 0)
        self.assertIsNone(programs.start_time(child))

    def test_all_in_the_namespaces_and_nobody_else(self):
        self.stand_in()
        ours = [self.start(part).pid for part in self.lab.programs]
        theirs = [self.sleeper("client"), self.sleeper("a")]
        outside = subprocess.Popen(["sleep", "600"])
        self.addCleanup(outside.wait, 20)
        self.addCleanup(outside.kill)
        self.assertEqual(programs.kill_all(NAME), 4)
        self.assertEqual([ended(pid) for pid in (*ours, *theirs)], [True] * 4)
        self.assertIsNone(outside.poll())
        self.assertEqual(programs.kill_all(NAME), 0)

    def test_namespace_that_lost_its_name(self):
        self.stand_in()
        process = self.start(self.a)
        theirs = self.sleeper("a")
        network.remove(namespace(NAME, "a"))
        self.assertEqual(programs.kill_all(NAME), 2)
        self.assertTrue(ended(process.pid))
        self.assertTrue(ended(theirs))

    def test_never_in_the_namespace_of_its_own(self):
        """Even if a name of the lab led to it."""
        killed = []
        self.patch(programs, "_kill", killed.extend)
        path = network.FOLDER / namespace(NAME, "c")
        path.touch()
        network._mount("/proc/self/ns/net", path, None, network.MS_BIND)
        self.assertEqual(network.identity(path.name), network.identity_of_process("self"))
        self.assertEqual((programs.kill_all(NAME), killed), (0, []))

    def test_nothing_to_kill(self):
        self.assertEqual(programs.kill_all("other"), 0)


class RootTests(LabCase):
    def test_package_is_found_from_anywhere(self):
        done = subprocess.run(
            [sys.executable, "-c", "import dlba; print(dlba.__file__)"],
            cwd="/",
            env=programs._environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(Path(done.stdout.strip()), Path(programs.dlba.__file__))
