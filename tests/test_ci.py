"""What .ci/functions.sh reads from the README, from trial's log and from a JUnit file.

.ci/run itself is never started or sourced here: it installs packages and removes folders.
"""

import shutil
import subprocess
from pathlib import Path
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

SCRIPT = Path(__file__).resolve().parent.parent / ".ci" / "functions.sh"


class ScriptTests(SynchronousTestCase):
    def setUp(self) -> None:
        if not SCRIPT.exists():
            raise SkipTest(f"{SCRIPT}: not here, as in a source distribution")
        if shutil.which("bash") is None or shutil.which("awk") is None:
            raise SkipTest("bash or awk: not installed")
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir(parents=True)

    def bash(self, line: str, text: str = "", *arguments: str) -> str | None:
        """What `line` prints once the script's functions are defined; None if it fails."""
        run = subprocess.run(
            ["bash", "-c", f'source "$0" && {line}', str(SCRIPT), *arguments],
            cwd=self.folder,
            input=text,
            capture_output=True,
            text=True,
            timeout=30,
        )
        return None if run.returncode else run.stdout.strip()


class TrialCountTests(ScriptTests):
    def count(self, text: str) -> str | None:
        return self.bash("count_trial", text)

    def log(self, ran: int, summary: str) -> str:
        return f"tests.x\n  test_a ... [OK]\n\n{'-' * 79}\nRan {ran} tests in 0.2s\n\n{summary}\n"

    def test_summaries(self) -> None:
        for summary, expected in (
            ("PASSED (successes=10)", "10 0 0"),
            ("PASSED (skips=3, successes=10)", "10 0 3"),
            ("PASSED (skips=3)", "0 0 3"),
            ("PASSED (skips=1, expectedFailures=2, successes=10)", "12 0 1"),
            ("FAILED (failures=1, errors=2, skips=3, successes=10)", "10 3 3"),
            ("FAILED (errors=12)", "0 12 0"),
            ("FAILED (unexpectedSuccesses=2, successes=1)", "1 2 0"),
            ("PASSED", "0 0 0"),
        ):
            self.assertEqual(self.count(self.log(10, summary)), expected, summary)

    def test_one_test(self) -> None:
        self.assertEqual(self.count("Ran 1 test in 0.001s\n\nPASSED (successes=1)\n"), "1 0 0")

    def test_no_summary(self) -> None:
        self.assertIsNone(self.count(""))
        self.assertIsNone(self.count("Traceback …\nImportError: x\n"))
        self.assertIsNone(self.count("Ran 3 tests in 0.1s\n\n"))
        self.assertIsNone(self.count("PASSED (successes=10)\n"))

    def test_the_last_summary_counts(self) -> None:
        inner = self.log(1, "FAILED (failures=1)")
        self.assertEqual(self.count(inner + self.log(2, "PASSED (successes=2)")), "2 0 0")
        cut = self.log(2, "PASSED (successes=2)") + "Ran 7 tests in 0.1s\n"
        self.assertIsNone(self.count(cut))

    def test_words_in_the_middle_of_a_line(self) -> None:
        noise = "saying PASSED (successes=99)\nFAILED to do so\n"
        log = self.log(2, "PASSED (successes=2)") + noise
        self.assertEqual(self.count(log), "2 0 0")

    def test_in_all(self) -> None:
        log = self.log(10, "FAILED (failures=1, errors=2, skips=3, successes=10)")
        self.assertEqual(self.bash("count_trial | count_all", log), "16")
        self.assertEqual(self.bash("count_trial | count_all", "Traceback …\n"), "0")


class JUnitCountTests(ScriptTests):
    def count(self, text: str) -> str | None:
        path = self.folder / "text"
        path.write_text(text, "utf-8")
        return self.bash('count_junit "$1"', "", str(path))

    def test_kinds(self) -> None:
        cases = (
            "<testcase name='a'/><testcase name='b'><system-out>x</system-out></testcase>"
            "<testcase name='c'><failure/></testcase><testcase name='d'><error/></testcase>"
            "<testcase name='e'><skipped/></testcase>"
        )
        text = f"<testsuites><testsuite tests='5'>{cases}</testsuite></testsuites>"
        self.assertEqual(self.count(text), "2 2 1")

    def test_none(self) -> None:
        self.assertEqual(self.count("<testsuites><testsuite tests='0'/></testsuites>"), "0 0 0")

    def test_unreadable(self) -> None:
        self.assertIsNone(self.count("<testsuites>"))
        self.assertIsNone(self.bash('count_junit "$1"', "", "/nonexistent.xml"))


class ReadmeCommandTests(ScriptTests):
    def command(self, text: str) -> str | None:
        path = self.folder / "text"
        path.write_text(text, "utf-8")
        return self.bash("readme_command '## Test' \"$1\"", "", str(path))

    def test_first_block_under_the_heading(self) -> None:
        text = "# x\n## Run\n```sh\nno\n```\n## Test\nwords\n```sh\nyes\n```\n```sh\nno\n```\n"
        self.assertEqual(self.command(text), "yes")

    def test_none(self) -> None:
        self.assertEqual(self.command("## Test\nwords\n## More\n```sh\nno\n```\n"), "")


class StageTests(ScriptTests):
    """The stages and the last line, with made-up stages."""

    def end(self, first: str, second: str) -> tuple[bool, list[str]]:
        """Whether it ends well, and the lines printed, when two stages do as told."""
        define = f"stage_a() {{ {first}; }}; stage_b() {{ {second}; }}"
        printed = self.bash(
            f'{define}; stage a "the first"; stage b "the second"; finish; echo "exit $?"'
        )
        assert printed is not None
        lines = printed.splitlines()
        return lines.pop() == "exit 0", lines

    def test_all_well(self) -> None:
        held, lines = self.end("add 5 0 1", "add 2 0 0")
        self.assertEqual((held, lines[-1]), (True, "7 passed, 0 failed, 1 skipped"))
        self.assertIn("=== a: the first", lines)

    def test_a_failing_stage_hides_no_later_one(self) -> None:
        held, lines = self.end("return 3", "add 5 0 0")
        self.assertEqual((held, lines[-1]), (False, "5 passed, 0 failed, 0 skipped"))
        self.assertIn("failed stages: a", lines)
        self.assertTrue(any(line.startswith("=== b: held") for line in lines), lines)

    def test_a_failed_test(self) -> None:
        held, lines = self.end("add 5 1 0", ":")
        self.assertEqual((held, lines[-1]), (False, "5 passed, 1 failed, 0 skipped"))

    def test_no_test(self) -> None:
        held, lines = self.end(":", "add 0 0 4")
        self.assertEqual((held, lines[-1]), (False, "0 passed, 0 failed, 4 skipped"))


class BesideTests(ScriptTests):
    """Stages that run beside each other, made up as well."""

    def end(self, define: str, *stages: str) -> tuple[bool, list[str]]:
        """Whether it ends well, and the lines printed."""
        started = "; ".join(f'beside "$1" {name} "stage {name}"' for name in stages)
        printed = self.bash(
            f'{define}; {started}; join; finish; echo "exit $?"', "", str(self.folder)
        )
        assert printed is not None
        lines = [line for line in printed.splitlines() if line]
        return lines.pop() == "exit 0", lines

    def test_each_in_one_block_and_counted(self) -> None:
        # Each waits for the other: one after the other they would never end.
        define = (
            "meet() { echo $1 1; touch $1; until [ -e $2 ]; do sleep 0.01; done; echo $1 2 >&2; };"
            "stage_a() { meet here there; add 5 0 1; }; stage_b() { meet there here; add 2 0 0; }"
        )
        held, lines = self.end(define, "a", "b")
        self.assertTrue(held, lines)
        printed = [line for line in lines if ": held (" not in line]
        first = ["=== a: stage a", "here 1", "here 2"]
        second = ["=== b: stage b", "there 1", "there 2"]
        self.assertEqual(printed, [*first, *second, "7 passed, 0 failed, 1 skipped"])

    def test_one_that_fails(self) -> None:
        held, lines = self.end("stage_a() { return 3; }; stage_b() { add 2 0 0; }", "a", "b")
        self.assertEqual((held, lines[-1]), (False, "2 passed, 0 failed, 0 skipped"))
        self.assertIn("failed stages: a", lines)
        self.assertTrue(any(line.startswith("=== b: held") for line in lines), lines)

    def test_a_failed_test(self) -> None:
        held, lines = self.end("stage_a() { add 1 2 3; }", "a")
        self.assertEqual((held, lines[-1]), (False, "1 passed, 2 failed, 3 skipped"))

    def test_one_that_breaks_off(self) -> None:
        for end in ("exit 0", "kill -9 $BASHPID"):
            define = f"stage_a() {{ add 9 0 0; {end}; }}; stage_b() {{ add 2 0 0; }}"
            held, lines = self.end(define, "a", "b")
            self.assertEqual((held, lines[-1]), (False, "2 passed, 0 failed, 0 skipped"), end)
            self.assertIn("=== a: FAILED: it broke off", lines)

    def test_a_second_round(self) -> None:
        define = "stage_a() { add 1 0 0; }; stage_b() { add 2 0 0; }"
        held, lines = self.end(f'{define}; beside "$1" a first; join', "b")
        self.assertEqual((held, lines[-1]), (True, "3 passed, 0 failed, 0 skipped"))
        self.assertEqual(sum(line == "=== a: first" for line in lines), 1)


class RunTests(ScriptTests):
    def test_the_guard_comes_first(self) -> None:
        # Read, not run: the guard must stand before the first command that does anything.
        lines = (SCRIPT.parent / "run").read_text("utf-8").splitlines()
        code = [line for line in lines if line and not line.startswith("#")]
        self.assertEqual(code[0], "set -u -o pipefail")
        self.assertTrue(code[1].startswith('if [ "${BASH_SOURCE[0]}" != "$0" ]'), code[1])
