"""Tests of `dlba lab`: the whole commands on real namespaces, with stand-ins for the programs."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dlba import cli
from dlba.errors import DLBAError
from dlba.lab import command, network, programs, show
from dlba.lab.plan import namespace, plan
from tests.lab.labs import NAME, LabCase, ended

SCHEDULER = json.dumps({"node": "a", "role": "scheduler", "term": 3, "scheduler": "a", "nodes": []})


def run(*argv):
    """Exit code, standard output and standard error of one command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(argv)
        except SystemExit as ending:
            code = ending.code
    return code, out.getvalue(), err.getvalue()


def lab(*argv):
    return run("lab", "--name", NAME, *argv)


class UsageTests(SynchronousTestCase):
    def test_wrong_usage(self):
        for argv, text in (
            ((), "required: COMMAND"),
            (("nonsense",), "invalid choice: 'nonsense'"),
            (("--name", "a/b", "up"), "expected a name, got 'a/b'"),
            (("--name", "", "up"), "expected a name, got ''"),
            (("status", "--name", "../x"), "expected a name, got '../x'"),
            (("up", "--nodes", "0"), "expected 1 to 26 nodes, got '0'"),
            (("up", "--nodes", "27"), "expected 1 to 26 nodes, got '27'"),
            (("up", "--nodes", "-1"), "expected 1 to 26 nodes, got '-1'"),
            (("up", "--nodes", "²"), "expected 1 to 26 nodes, got '²'"),
            (("up", "--nodes", "9" * 5000), "expected 1 to 26 nodes"),
            (("kill", "client"), "expected a node or backend, got 'client'"),
            (("kill", "../a"), "expected a node or backend, got '../a'"),
            (("start", "switch"), "expected a node or backend, got 'switch'"),
            (("cut", "app1"), "expected a node (a to z), got 'app1'"),
            (("heal", "A"), "expected a node (a to z), got 'A'"),
            (("exec", "x/y", "--", "true"), "got 'x/y'"),
            (("exec",), "required: NAME"),
        ):
            code, out, err = run("lab", *argv)
            self.assertEqual((code, out), (2, ""), argv)
            self.assertIn(text, err)

    def test_a_wrong_setting_makes_nothing(self):
        self.patch(os, "geteuid", lambda: 0)
        self.patch(programs, "held", None)
        for setting, text in (
            ("x", 'dlba lab up: --set expected KEY=VALUE, got "x"\n'),
            ("vip.x=1", 'dlba lab up: --set vip.x: expected something that has "x", got vip\n'),
        ):
            self.assertEqual(run("lab", "up", "--set", setting), (2, "", text))

    def test_needs_root_and_linux(self):
        self.patch(os, "geteuid", lambda: 1000)
        for argv in (("up",), ("down",), ("status",), ("kill", "a"), ("exec", "a", "--", "true")):
            expected = (1, "", "dlba lab: expected root, got user id 1000\n")
            self.assertEqual(run("lab", *argv), expected)
        self.patch(sys, "platform", "darwin")
        expected = (1, "", "dlba lab: expected Linux, got darwin\n")
        self.assertEqual(run("lab", "up"), expected)

    def test_help_names_every_command(self):
        code, out, _ = run("lab", "--help")
        self.assertEqual(code, 0)
        for name in (
            "up",
            "status",
            "exec",
            "kill",
            "start",
            "stop",
            "continue",
            "cut",
            "heal",
            "down",
        ):
            self.assertRegex(out, rf"\n    {name} ")

    def test_errors_are_one_line(self):
        self.patch(os, "geteuid", lambda: 0)
        for error, text in (
            (DLBAError("lab x: y"), "dlba lab: lab x: y\n"),
            (PermissionError(1, "not so"), "dlba lab: not so\n"),
            (PermissionError(1, "not so", "/x"), "dlba lab: /x: not so\n"),
        ):

            def fail(name, error=error):
                raise error

            self.patch(programs, "read_lab", fail)
            self.assertEqual(run("lab", "status"), (1, "", text))


class NoLabTests(LabCase):
    def test_everything_says_so(self):
        for argv in (
            ("status",),
            ("status", "--json"),
            ("kill", "a"),
            ("start", "a"),
            ("cut", "a"),
        ):
            expected = (1, "", f"dlba lab: lab {NAME}: expected a lab that is up, got none\n")
            self.assertEqual(lab(*argv), expected)
        code, _, err = lab("exec", "a", "--", "true")
        self.assertEqual((code, err.count("\n")), (1, 1))
        self.assertEqual(lab("down"), (0, f"lab {NAME}: nothing there\n", ""))
        self.assertEqual(list(self.folder.iterdir()), [])


class UpCase(LabCase):
    def up(self, *argv, **answers):
        for number in command.ENDS:
            # A process of its own would end now.
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.stand_in(**({"a": SCHEDULER} | answers))
        return lab("up", "--nodes", "1", *argv)

    def gone(self):
        """Nothing is left; `down` says so."""
        self.assertEqual(list(self.folder.iterdir()), [])
        self.assertEqual(lab("down"), (0, f"lab {NAME}: nothing there\n", ""))


class UpTests(UpCase):
    def test_a_whole_life(self):
        code, out, err = self.up()
        self.assertEqual((code, err), (0, ""))
        for text in (
            f"lab {NAME}: starting 1 nodes and 1 backends\n",
            f"lab {NAME}  vip 203.0.113.10  scheduler a\n",
            "\na       203.0.113.11   02:00:cb:00:71:0b  yes   yes   scheduler\n",
            f"  dlba lab --name {NAME} exec client -- curl -ki https://203.0.113.10/ ",
        ):
            self.assertIn(text, out)

        code, out, _ = lab("status", "--json")
        document = json.loads(out)
        pids = {row["name"]: row.pop("pid") for row in document["nodes"] + document["backends"]}
        a = {"name": "a", "address": "203.0.113.11", "mac": "02:00:cb:00:71:0b"}
        runs = {"running": True, "stopped": False}
        self.assertEqual(
            document,
            {
                "name": NAME,
                "vip": "203.0.113.10",
                "scheduler": "a",
                "nodes": [{**a, "link": True, "role": "scheduler", "term": 3, **runs}],
                "backends": [{"name": "app1", "address": "10.0.1.1:8080", **runs}],
                "client": {"address": "203.0.113.200"},
            },
        )
        self.assertEqual(pids["a"], programs.running(NAME, "a"))

        self.assertEqual(lab("cut", "a"), (0, "a: link down\n", ""))
        self.assertIs(self.node()["link"], False)
        self.assertEqual(lab("heal", "a"), (0, "a: link up\n", ""))
        self.assertIs(self.node()["link"], True)

        self.assertEqual(lab("kill", "a"), (0, "a: killed\n", ""))
        self.assertTrue(ended(pids["a"]))
        expected = {**a, "running": False, "link": True, "role": None, "pid": None}
        expected |= {"term": None, "stopped": False}
        self.assertEqual(self.node(), expected)
        self.assertIsNone(self.status()["scheduler"])
        code, _, err = lab("kill", "a")
        self.assertEqual((code, "a: expected a program that runs, got none" in err), (1, True))
        self.assertEqual(lab("start", "a"), (0, "a: running\n", ""))
        pid = self.node()["pid"]
        code, _, err = lab("start", "a")
        self.assertEqual((code, f"a: expected no program, got process {pid}" in err), (1, True))
        self.assertEqual(lab("kill", "app1"), (0, "app1: killed\n", ""))
        self.assertEqual(lab("start", "app1"), (0, "app1: running\n", ""))

        theirs = self.sleeper("client")
        self.assertEqual(lab("down"), (0, f"lab {NAME}: down\n", ""))
        self.assertTrue(ended(pid))
        self.assertTrue(ended(theirs))
        self.gone()

    def test_stop_and_continue(self):
        self.up()
        pid = programs.running(NAME, "a")
        self.assertEqual(lab("stop", "a"), (0, "a: stopped\n", ""))
        self.assertIn(" T ", Path(f"/proc/{pid}/stat").read_text())
        node = self.node()
        self.assertEqual((node["running"], node["stopped"], node["role"]), (True, True, None))
        # Nobody waits for one who can't answer.
        start = time.monotonic()
        self.assertRegex(lab("status")[1], r"\na .* stopped  yes   -\n")
        self.assertLess(time.monotonic() - start, network.ASK_TIMEOUT / 2)
        self.assertEqual(lab("stop", "a")[0], 0)
        self.assertEqual(lab("continue", "a"), (0, "a: goes on\n", ""))
        node = self.node()
        self.assertEqual((node["pid"], node["stopped"], node["role"]), (pid, False, "scheduler"))
        self.assertEqual(lab("continue", "a")[0], 0)
        self.assertEqual(lab("stop", "app1"), (0, "app1: stopped\n", ""))
        self.assertIs(self.status()["backends"][0]["stopped"], True)
        self.assertEqual(lab("stop", "a")[0], 0)
        self.assertEqual(lab("kill", "a")[0], 0)
        for word in ("stop", "continue"):
            code, _, err = lab(word, "a")
            self.assertEqual((code, "a: expected a program that runs, got none" in err), (1, True))
        self.assertEqual(lab("start", "a")[0], 0)
        self.assertEqual(lab("stop", "a")[0], 0)
        # What is stopped is taken down, too.
        self.assertEqual(lab("down"), (0, f"lab {NAME}: down\n", ""))
        self.assertTrue(ended(pid))
        self.gone()

    def test_start_waits_until_the_array_has_settled(self):
        self.up()
        lab("kill", "a")
        asked = []
        self.patch(command, "is_settled", lambda *given: asked.append(given) or len(asked) > 2)
        self.assertEqual(lab("start", "a")[0], 0)
        self.assertEqual(len(asked), 3)
        [(document,), web, channel] = asked[-1]
        self.assertEqual((document["role"], web, channel), ("scheduler", True, True))

    def node(self):
        return self.status()["nodes"][0]

    def status(self):
        return json.loads(lab("status", "--json")[1])

    def test_parts_that_are_not_there(self):
        self.up()
        for argv in (("kill", "b"), ("start", "app2"), ("cut", "c"), ("exec", "d", "--", "true")):
            code, out, err = lab(*argv)
            self.assertEqual((code, out), (2, ""))
            self.assertIn("expected one of a, app1, client, got ", err)

    def test_json(self):
        code, out, _ = self.up("--json", "--set", "vip=203.0.113.77")
        document = json.loads(out)
        self.assertEqual((code, document["vip"], document["scheduler"]), (0, "203.0.113.77", "a"))

    def test_settings_reach_the_file(self):
        self.up("--set", "routing.bucket_timeout=30", "--set", "web=null", "--set", "name=x")
        text = (programs.folder(NAME) / "array.yaml").read_text()
        self.assertRegex(text, r"(?m)^name: x$")
        self.assertRegex(text, r"bucket_timeout: 30\b")
        self.assertNotIn("web:", text)
        out = "\n".join(show.to_try(programs.read_lab(NAME)))
        self.assertIn("exec a -- dlba backend --name a --address 203.0.113.10 --port 80", out)

    def test_offloads_follow_the_way_frames_are_read(self):
        seen = []
        self.patch(network, "build", lambda made, offloads: seen.append(offloads))
        self.patch(programs, "wait_ready", lambda *_: None)
        self.patch(command, "is_settled", lambda *_: True)
        for settings in (
            (),
            ("--set", "routing.packets=pcap"),
            ("--set", "routing.packets=packet"),
        ):
            self.up(*settings)
            lab("down")
        self.assertEqual(seen, [True, False, True])

    def test_nodes_that_do_not_find_each_other_in_time(self):
        """That is no failure: they may still, and status shows it."""
        self.patch(command, "SETTLE_TIMEOUT", 0.1)
        code, out, _ = self.up(a='{"role": "backup"}')
        self.assertEqual(code, 0)
        self.assertIn("  scheduler -\n", out)

    def test_name_without_a_word(self):
        texts = show.to_try(programs.Lab(plan("lab", 1), None, {}, True))
        self.assertIn("  dlba lab exec client -- curl -ki https://203.0.113.11/ ", texts[1])
        self.assertTrue(all(len(text) <= 110 for text in texts))


class TwiceTests(UpCase):
    def test_up_while_it_is_up(self):
        self.up()
        pid = programs.running(NAME, "a")
        code, out, err = self.up()
        self.assertEqual((code, out), (1, ""))
        hint = f"lab {NAME}: expected none, got one: `dlba lab --name {NAME} down` first\n"
        self.assertEqual(err, f"dlba lab: {hint}")
        self.assertEqual(programs.running(NAME, "a"), pid)

    def test_up_at_the_same_moment(self):
        with programs.held(NAME, make=True):
            code, _, err = self.up()
        self.assertEqual((code, err.count("\n")), (1, 1))
        self.assertIn(f"lab {NAME}: another dlba lab command is at work on it", err)

    def test_a_change_waits_and_then_gives_up(self):
        self.up()
        self.patch(command, "WAIT", 0.1)
        with programs.held(NAME):
            for argv in (("kill", "a"), ("down",)):
                code, _, err = lab(*argv)
                self.assertEqual((code, "another dlba lab command" in err), (1, True))
            self.assertEqual(lab("status")[0], 0)

    def test_two_labs(self):
        self.up()
        self.assertEqual(run("lab", "--name", "t-1-a", "up", "--nodes", "1")[0], 0)
        pids = [programs.running(name, "a") for name in (NAME, "t-1-a")]
        self.assertEqual(lab("down")[0], 0)
        self.assertEqual([ended(pid) for pid in pids], [True, False])
        self.assertEqual(run("lab", "down", "--name", "t-1-a")[0], 0)
        self.assertTrue(ended(pids[1]))
        self.gone()


class FailureTests(UpCase):
    def test_mistake_in_the_configuration(self):
        code, out, err = self.up("--set", "routing.bukets=3", "--set", "web.sites.0.pool=x")
        self.assertEqual((code, out), (2, ""))
        self.assertRegex(err, r"(?m)^\S+array.yaml:\d+:\d+: routing.bukets: expected a known key")
        self.assertRegex(err, r"(?m)^\S+array.yaml:\d+:\d+: web.sites\[0\].pool: expected")
        self.gone()

    def test_program_that_ends(self):
        code = "raise SystemExit('no such luck')"
        self.patch(programs, "_command", lambda *_: [sys.executable, "-c", code])
        code, _, err = lab("up", "--nodes", "1")
        self.assertEqual(code, 1)
        self.assertRegex(err, r"(app1|a): ended with code 1; the end of its log:\n  no such luck\n")
        self.gone()

    def test_start_that_fails_leaves_no_program(self):
        self.up()
        lab("kill", "a")
        self.patch(command, "UP_TIMEOUT", 0.2)
        (programs.folder(NAME) / "a" / "answer").unlink()
        self.stand_in(a=None)
        code, _, err = lab("start", "a")
        self.assertEqual((code, "a: /readyz isn't 200 after" in err), (1, True))
        self.assertIsNone(programs.running(NAME, "a"))

    def test_interrupted(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            before = signal.getsignal(number)
            self.patch(programs, "wait_ready", lambda *_, n=number: os.kill(os.getpid(), n))
            code, _, err = self.up()
            self.assertEqual(code, 1)
            self.assertIn(f"lab {NAME}: interrupted, and taken down", err)
            self.assertEqual(signal.getsignal(number), before)
            self.gone()

    def test_interrupted_too_late(self):
        """A lab that is up stays so, and the command says so."""
        for number in command.ENDS:
            self.patch(command, "status_lines", lambda _, n=number: os.kill(os.getpid(), n) or [])
            code, out, _ = self.up()
            self.assertEqual(code, 0)
            self.assertIn(f"dlba lab --name {NAME}", out)
            lab("down")

    def test_signals_that_are_ignored_stay_so(self):
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.addCleanup(signal.signal, signal.SIGHUP, before)
        self.patch(programs, "wait_ready", lambda *_: os.kill(os.getpid(), signal.SIGHUP))
        self.assertEqual(self.up()[0], 0)


class DownTests(UpCase):
    def test_folder_that_was_deleted(self):
        self.up()
        pids = [programs.running(NAME, name) for name in ("a", "app1")]
        shutil.rmtree(programs.FOLDER)
        code, _, err = lab("status")
        self.assertEqual((code, "what is left of a lab" in err), (1, True))
        code, _, err = self.up()
        self.assertEqual((code, "expected none, got one" in err), (1, True))
        self.assertEqual(lab("down"), (0, f"lab {NAME}: down\n", ""))
        self.assertEqual([ended(pid) for pid in pids], [True, True])
        self.gone()

    def test_half_made(self):
        """Killed after each step of `up`."""
        steps = (
            lambda: programs.folder(NAME).mkdir(parents=True),
            lambda: programs.write_files(self.lab, {}),
            lambda: network.create(self.lab.namespaces[:1]),
            (network.FOLDER / namespace(NAME, "b")).touch,
            lambda: network.create(self.lab.namespaces[1:]),
            lambda: network.build(self.lab, True),
            lambda: programs.start(NAME, self.app1),
        )
        self.stand_in()
        for count in range(1, len(steps) + 1):
            for step in steps[:count]:
                step()
            lab("status")
            self.assertEqual(lab("down"), (0, f"lab {NAME}: down\n", ""), count)
            self.gone()

    def test_what_cannot_be_removed_is_told_and_the_rest_goes(self):
        self.up()
        pid = programs.running(NAME, "a")

        def refuse(name):
            raise OSError(16, f"{name} is busy")

        with self.subPatch(network, "remove", refuse):
            code, _, err = lab("down")
        self.assertEqual(code, 1)
        self.assertIn("expected to leave nothing behind, got: ", err)
        for name in self.lab.namespaces:
            self.assertIn(f"{name} is busy", err)
        self.assertTrue(ended(pid))
        self.assertFalse(programs.folder(NAME).exists())
        self.assertEqual(lab("down")[0], 0)
        self.gone()

    @contextlib.contextmanager
    def subPatch(self, owner, name, value):  # noqa: N802 - as patch
        patch = self.patch(owner, name, value)
        try:
            yield
        finally:
            patch.restore()

    def test_from_within(self):
        self.up()
        done = self.script("lab", "--name", NAME, "down")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.up()
        with network.inside(namespace(NAME, "a")):
            done = self.script("lab", "--name", NAME, "down")
        self.assertEqual(done.returncode, 1)
        here = namespace(NAME, "a")
        self.assertIn(f"lab {NAME}: expected to be run outside of it, got {here}\n", done.stderr)
        self.assertIsNotNone(programs.running(NAME, "a"))


class ExecTests(UpCase):
    def setUp(self):
        super().setUp()
        self.up()

    def script(self, part, *argv):
        return super().script("lab", "--name", NAME, "exec", part, *argv)

    def test_where_and_with_what(self):
        show = 'echo "$DLBA_CONTROL"; readlink /proc/self/ns/net; echo "${PATH##*:}"'
        self.patch(os, "environ", {**os.environ, "DLBA_CONTROL": "/elsewhere"})
        for part, control in (
            ("a", str(programs.folder(NAME) / "a/state/control")),
            ("app1", ""),
            ("client", ""),
            ("switch", ""),
        ):
            done = self.script(part, "--", "sh", "-c", show)
            inode = network.identity(namespace(NAME, part))[1]
            scripts = str(Path(sys.executable).parent)
            self.assertEqual(done.stdout.splitlines(), [control, f"net:[{inode}]", scripts])

    def test_exit_code_and_arguments_are_the_command_s(self):
        done = self.script("a", "--", "sh", "-c", 'echo "$@"; exit 7', "x", "--", "--name", "-c")
        self.assertEqual((done.returncode, done.stdout), (7, "-- --name -c\n"))
        done = self.script("a", "sh", "-c", "kill -9 $$")
        self.assertEqual(done.returncode, -9)

    def test_a_broken_pipe_ends_it_as_in_any_shell(self):
        done = self.script("a", "--", "sh", "-c", "yes | head -n 1; grep SigIgn /proc/self/status")
        self.assertEqual(done.stdout.splitlines()[0], "y")
        ignored = int(re.search(r"SigIgn:\s+(\w+)", done.stdout)[1], 16)
        self.assertEqual(ignored >> (signal.SIGPIPE - 1) & 1, 0)
        self.assertEqual(done.stderr, "")

    def test_what_cannot_be_run(self):
        done = self.script("a", "--", "no-such-command")
        expected = "dlba lab exec: no-such-command: No such file or directory\n"
        self.assertEqual((done.returncode, done.stderr), (1, expected))
        done = self.script("a", "--")
        self.assertEqual(done.returncode, 2)
        self.assertIn("expected NAME -- COMMAND, got no command", done.stderr)
