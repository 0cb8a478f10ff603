"""Tests of dlba.election.transitions: the table is total, and what each row says."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dlba.election.transitions import TABLE, Action, Event, State, diagram

S, E, A = State, Event, Action

#: Everything that isn't "stay, do nothing", written down a second time.
EXPECTED = {
    S.LISTENING: {
        E.LISTENED: (S.BACKUP, A.NOTHING),
        E.FOLLOWED: (S.BACKUP, A.FOLLOW),
        E.GAP: (S.LISTENING, A.LISTEN),
        E.BROKEN: (S.FAULT, A.NOTHING),
        E.STOP: (S.LEAVING, A.NOTHING),
    },
    S.BACKUP: {
        E.FOLLOWED: (S.BACKUP, A.FOLLOW),
        E.DEAD: (S.CANDIDATE, A.WEIGH),
        E.GAP: (S.BACKUP, A.RESET),
        E.BROKEN: (S.FAULT, A.NOTHING),
        E.STOP: (S.LEAVING, A.NOTHING),
    },
    S.CANDIDATE: {
        E.FOLLOWED: (S.BACKUP, A.FOLLOW),
        E.VETOED: (S.BACKUP, A.WAIT),
        E.WEIGHED: (S.CLAIMANT, A.CLAIM),
        E.GAP: (S.BACKUP, A.RESET),
        E.BROKEN: (S.FAULT, A.NOTHING),
        E.STOP: (S.LEAVING, A.NOTHING),
    },
    S.CLAIMANT: {
        E.FOLLOWED: (S.BACKUP, A.FOLLOW),
        E.VETOED: (S.BACKUP, A.WAIT),
        E.WON: (S.SCHEDULER, A.REIGN),
        E.LOST: (S.BACKUP, A.WAIT),
        E.GAP: (S.BACKUP, A.RESET),
        E.BROKEN: (S.FAULT, A.NOTHING),
        E.STOP: (S.LEAVING, A.NOTHING),
    },
    S.SCHEDULER: {
        E.OUTRANKED: (S.BACKUP, A.YIELD),
        E.MINORITY: (S.BACKUP, A.RESIGN),
        E.GAP: (S.ABSENT, A.MUTE),
        E.BROKEN: (S.FAULT, A.RESIGN),
        E.STOP: (S.LEAVING, A.LEAVE),
    },
    S.ABSENT: {
        E.OUTRANKED: (S.BACKUP, A.YIELD),
        E.MINORITY: (S.BACKUP, A.RESIGN),
        E.GAP: (S.ABSENT, A.MUTE),
        E.CONFIRMED: (S.SCHEDULER, A.UNMUTE),
        E.BROKEN: (S.FAULT, A.RESIGN),
        E.STOP: (S.LEAVING, A.LEAVE),
    },
    S.FAULT: {
        E.FOLLOWED: (S.FAULT, A.FOLLOW),
        E.MENDED: (S.LISTENING, A.LISTEN),
        E.GAP: (S.FAULT, A.RESET),
        E.STOP: (S.LEAVING, A.NOTHING),
    },
    S.LEAVING: {E.FOLLOWED: (S.LEAVING, A.FOLLOW)},
}


class TableTests(SynchronousTestCase):
    def test_it_is_total(self):
        self.assertEqual(TABLE.keys(), {(state, event) for state in State for event in Event})

    def test_each_row(self):
        for (state, event), found in TABLE.items():
            expected = EXPECTED[state].get(event, (state, A.NOTHING))
            self.assertEqual(found, expected, f"{state.name} {event.name}")

    def test_the_only_way_to_the_role_is_a_claim_that_stands(self):
        ways = {
            (state, event)
            for (state, event), (then, _) in TABLE.items()
            if then is S.SCHEDULER and state is not S.SCHEDULER
        }
        self.assertEqual(ways, {(S.CLAIMANT, E.WON), (S.ABSENT, E.CONFIRMED)})

    def test_whoever_leaves_the_role_says_so_to_the_packet_path(self):
        for (state, event), (then, action) in TABLE.items():
            if state in (S.SCHEDULER, S.ABSENT) and then not in (S.SCHEDULER, S.ABSENT):
                self.assertIn(action, (A.YIELD, A.RESIGN, A.LEAVE), f"{state.name} {event.name}")

    def test_nothing_leads_out_of_leaving(self):
        for event in Event:
            self.assertIs(TABLE[S.LEAVING, event][0], S.LEAVING)

    def test_no_action_is_left_over(self):
        self.assertEqual({action for _, action in TABLE.values()}, set(Action))


class DiagramTests(SynchronousTestCase):
    def test_it_has_every_state_and_every_change(self):
        text = diagram()
        for state in State:
            self.assertIn(state.name, text)
        for (state, event), (then, _) in TABLE.items():
            if then is not state:
                line = next(
                    line for line in text.splitlines() if f" {state.name} --> {then.name}:" in line
                )
                self.assertIn(event.name, line)


class DocumentationTests(SynchronousTestCase):
    """docs/election.md says what the code does, no more and no less."""

    def setUp(self):
        docs = Path(__file__).resolve().parents[2] / "docs" / "election.md"
        self.text = docs.read_text("utf-8")

    def rows(self, head: str) -> list[str]:
        """The lines of the table with this head."""
        _, _, rest = self.text.partition(f"{head}\n|---|---|\n")
        return rest.partition("\n\n")[0].splitlines()

    def test_the_diagram(self):
        _, _, rest = self.text.partition("```mermaid\n")
        self.assertEqual(rest.partition("\n```")[0], diagram())
        self.assertEqual(self.text.count("```mermaid"), 1)

    def test_every_state_with_its_sentence(self):
        expected = [f"| `{state.name}` | {state.value} |" for state in State]
        self.assertEqual(self.rows("| state | a node in it |"), expected)

    def test_every_event_with_its_sentence(self):
        expected = [f"| `{event.name}` | {event.value} |" for event in Event]
        self.assertEqual(self.rows("| event | when |"), expected)
