"""Tests of dlba.routing.fragments."""

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import fragment
from scapy.packet import Raw
from twisted.trial.unittest import SynchronousTestCase

from dlba.routing.fragments import CAPACITY, LIFETIME, Fragments
from dlba.routing.frame import classify, fragment_key
from dlba.routing.kinds import Kind
from tests.routing.frames import CLIENT_NUMBER, PORT, ip, link, rules, tcp


class FragmentTests(SynchronousTestCase):
    def setUp(self):
        self.fragments = Fragments(5.0, 4)

    def test_later_ones_follow_the_first(self):
        self.fragments.teach(1, 51515, 100.0)
        self.fragments.teach(2, 0, 100.0)
        for now in (100.0, 100.0, 104.999):
            self.assertEqual(self.fragments.port(1, now), 51515)
            self.assertEqual(self.fragments.port(2, now), 0)
            self.assertEqual(self.fragments.port(3, now), -1)

    def test_real_frames(self):
        """What scapy takes apart goes one way, in any order after the first."""
        first, *later = (
            bytes(link() / part)
            for part in fragment(ip(id=7) / tcp() / Raw(bytes(6000)), fragsize=1000)
        )
        kind, address, port = classify(first, rules())
        self.assertEqual((kind, address, port), (Kind.FIRST_FRAGMENT, CLIENT_NUMBER, PORT))
        for frame in later:
            self.assertEqual(self.fragments.port(fragment_key(frame), 1.0), -1, "too early")
        self.fragments.teach(fragment_key(first), port, 1.0)
        for frame in reversed(later):
            self.assertEqual(classify(frame, rules())[0], Kind.LATER_FRAGMENT)
            self.assertEqual(self.fragments.port(fragment_key(frame), 1.1), PORT)
        other = bytes(link() / ip(id=8, frag=100, proto=6) / Raw(bytes(80)))
        self.assertEqual(self.fragments.port(fragment_key(other), 1.1), -1)

    def test_short_lived(self):
        self.fragments.teach(1, 5, 100.0)
        self.assertEqual(self.fragments.port(1, 104.9), 5)
        self.assertEqual(self.fragments.port(1, 105.0), -1)
        self.assertEqual(len(self.fragments), 0)

    def test_asking_doesn_t_lengthen_life(self):
        self.fragments.teach(1, 5, 100.0)
        for step in range(50):
            self.assertEqual(self.fragments.port(1, 100.0 + step / 10), 5)
        self.assertEqual(self.fragments.port(1, 105.0), -1)

    def test_taught_again(self):
        """Identifications come round: the newest port counts, and it lives from then on."""
        self.fragments.teach(1, 5, 100.0)
        self.fragments.teach(2, 6, 101.0)
        self.fragments.teach(1, 7, 104.0)
        self.assertEqual((self.fragments.port(1, 105.5), self.fragments.port(2, 105.5)), (7, 6))
        self.assertEqual((self.fragments.port(1, 106.5), self.fragments.port(2, 106.5)), (7, -1))
        self.assertEqual(self.fragments.port(1, 109.0), -1)

    def test_bounded(self):
        for key in range(1000):
            self.fragments.teach(key, key, 100.0)
            self.assertLessEqual(len(self.fragments), 4)
        self.assertEqual(self.fragments.evicted, 996)
        found = [key for key in range(1000) if self.fragments.port(key, 100.0) == key]
        self.assertEqual(found, [996, 997, 998, 999])

    def test_teaching_again_needs_no_room(self):
        for key in (1, 2, 3, 4, 4, 1, 2, 3):
            self.fragments.teach(key, key, 100.0)
        self.assertEqual((len(self.fragments), self.fragments.evicted), (4, 0))

    def test_room_comes_with_time(self):
        for key in range(4):
            self.fragments.teach(key, key, 100.0)
        self.fragments.teach(9, 9, 105.0)
        self.assertEqual((len(self.fragments), self.fragments.evicted), (1, 0))

    def test_purge(self):
        self.fragments.teach(1, 5, 100.0)
        self.fragments.teach(2, 5, 103.0)
        for now, left in ((104.0, 2), (105.0, 1), (107.9, 1), (108.0, 0), (109.0, 0)):
            self.fragments.purge(now)
            self.assertEqual(len(self.fragments), left, now)

    def test_time_that_goes_back(self):
        self.fragments.teach(1, 5, 100.0)
        self.fragments.teach(2, 6, 50.0)
        self.assertEqual(self.fragments.port(2, 104.0), 6)
        self.assertEqual(self.fragments.port(1, 105.0), -1)
        self.assertEqual(self.fragments.port(2, 0.0), -1)

    def test_taught_while_time_goes_back(self):
        self.fragments.purge(100.0)
        self.fragments.teach(1, 5, 90.0)
        self.assertEqual(self.fragments.port(1, 104.9), 5)
        self.assertEqual(self.fragments.port(1, 105.0), -1)

    def test_limits_that_make_no_sense(self):
        for lifetime, capacity in ((0, 1), (-1.0, 1), (1.0, 0)):
            self.assertRaises(ValueError, Fragments, lifetime, capacity)

    def test_usual_limits(self):
        usual = Fragments()
        for key in range(CAPACITY + 1):
            usual.teach(key, 1, 0.0)
        self.assertEqual((len(usual), usual.evicted), (CAPACITY, 1))
        usual.purge(LIFETIME)
        self.assertEqual(len(usual), 0)


@attrs.define
class Entry:
    key: int
    port: int
    at: float


class PropertyTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=300)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["teach", "ask", "purge"]),
                st.integers(0, 7),
                st.integers(0, 65535),
                st.sampled_from([0.0, 0.5, 1.0, 2.5]),
            ),
            max_size=60,
        )
    )
    def test_a_list_agrees(self, events):
        fragments = Fragments(3.0, 4)
        known: list[Entry] = []
        now, evicted = 10.0, 0
        for event, key, port, seconds in events:
            now += seconds
            known = [entry for entry in known if entry.at + 3.0 > now]
            if event == "teach":
                fragments.teach(key, port, now)
                known = [entry for entry in known if entry.key != key]
                evicted += len(known) == 4
                known = [*known, Entry(key, port, now)][-4:]
            elif event == "ask":
                expected = next((entry.port for entry in known if entry.key == key), -1)
                self.assertEqual(fragments.port(key, now), expected)
            else:
                fragments.purge(now)
            self.assertEqual(len(fragments), len(known))
            self.assertEqual(fragments.evicted, evicted)
