"""Tests of dlba.election.keyexchange: two nodes whose messages the test carries."""

from twisted.trial.unittest import SynchronousTestCase

from dlba.config.keys import Keys as OwnKeys
from dlba.config.keys import SecretKey
from dlba.election.keyexchange import KeyExchange
from dlba.election.keyring import OWN, Keyring
from dlba.election.messages import Keys, KeysHave
from dlba.errors import PeerError


def own(letter, hash_=None):
    key = SecretKey(f"k{letter}", letter.encode() * 32)
    return OwnKeys((key,), None if hash_ is None else hash_.encode() * 32)


class Node:
    """An exchange, and what came of it in order."""

    def __init__(self, keys, stored=""):
        self.done = []
        self.ring = Keyring(keys, stored)
        self.made = KeyExchange(self.ring, self.send, self.apply, self.keep)

    def send(self, number, message):
        self.done.append((number, message))

    def apply(self, ring):
        assert ring is self.ring
        self.done.append(("apply", [key.id for key in ring.signing], (ring.hash or b"")[:1]))

    def keep(self, text):
        self.done.append(("keep", text))

    def take(self):
        done, self.done = self.done, []
        return done


class KeyExchangeTests(SynchronousTestCase):
    def setUp(self):
        self.a, self.b = Node(own("a", "A")), Node(own("b", "B"))

    def offer(self, node):
        return Keys(data=node.ring.offer())

    def meet(self):
        """Both are told of each other's keys and confirm them; a is node 0."""
        self.a.made.up(1)
        self.b.made.up(0)
        self.carry()

    def carry(self):
        """All messages, until there are none."""
        while True:
            came = [m for m in self.a.take() if m[0] == 1], [m for m in self.b.take() if m[0] == 0]
            if came == ([], []):
                return
            for _, message in came[0]:
                self.b.made.came(0, message)
            for _, message in came[1]:
                self.a.made.came(1, message)

    def test_what_is_known_from_the_start_is_put_in_force(self):
        self.a.ring.learn(1, self.b.ring.offer())
        again = Node(own("a", "A"), self.a.ring.stored())
        self.assertEqual(again.take(), [])
        again.made.start()
        self.assertEqual(again.take(), [("apply", ["ka", "kb"], b"A")])

    def test_keys_are_offered_to_whoever_comes(self):
        self.a.made.up(1)
        self.a.made.up(2)
        offer = self.offer(self.a)
        self.assertEqual(self.a.take(), [(1, offer), (2, offer)])

    def test_in_force_and_kept_before_it_is_confirmed(self):
        self.a.made.came(1, self.offer(self.b))
        self.assertEqual(
            self.a.take(),
            [
                ("apply", ["ka", "kb"], b"A"),
                ("keep", self.a.ring.stored()),
                (1, KeysHave(ids=("kb",))),
            ],
        )
        # Again, as at a new connection: nothing has changed, and it is confirmed anew.
        self.a.made.came(1, self.offer(self.b))
        self.assertEqual(self.a.take(), [(1, KeysHave(ids=("kb",)))])

    def test_an_offer_that_breaks_the_rules(self):
        self.assertRaises(PeerError, self.a.made.came, 1, Keys(data=b"short key"))
        self.assertEqual(self.a.take(), [])

    def test_the_key_that_signs(self):
        self.a.made.up(1)
        self.assertEqual(self.a.made.choose(), "", "b has not confirmed it")
        self.meet()
        self.assertEqual(self.a.made.choose(), "ka")
        self.b.take()
        self.b.made.named("ka", 0)
        self.assertEqual([key.id for key in self.b.ring.signing], ["ka", "kb"])
        self.a.made.down(1)
        self.a.made.up(1)
        self.assertEqual(self.a.made.choose(), "", "another process may be there")
        self.a.made.down(1)
        self.assertEqual(self.a.made.choose(), "ka")

    def test_a_change_of_the_key_that_signs_is_put_in_force_once(self):
        self.meet()
        self.b.made.named("ka", 0)
        self.assertEqual(self.b.take()[0], ("apply", ["ka", "kb"], b"A"))
        self.b.made.named("ka", 0)
        self.assertEqual(self.b.take(), [])
        # b becomes scheduler; its own key signs.
        self.b.made.choose()
        self.assertEqual(self.b.take(), [("apply", ["kb", "ka"], b"A")])
        self.b.made.choose()
        self.assertEqual(self.b.take(), [])

    def test_the_scheduler_s_hash_key_is_passed_on(self):
        """Whoever follows b one day hashes as a did."""
        self.meet()
        self.b.made.up(2)
        self.b.take()
        self.b.made.named("ka", 0)
        done = self.b.take()
        offer = self.offer(self.b)
        self.assertIn(b"hash " + b"A" * 32, offer.data)
        kept = ("keep", self.b.ring.stored())
        self.assertEqual(done[1:], [kept, (0, offer), (2, offer)])
        self.assertEqual(Node(own("b", "B"), kept[1]).ring.hash, b"A" * 32)
        c = Node(own("c", "C"))
        c.made.came(1, offer)
        c.made.named("kb", 1)
        self.assertEqual(c.ring.hash, b"A" * 32)
        self.b.made.up(3)
        self.assertEqual(self.b.take(), [(3, offer)])

    def test_a_node_that_is_gone_is_told_nothing(self):
        self.meet()
        self.b.made.up(2)
        self.b.made.down(2)
        self.b.take()
        self.b.made.named("ka", 0)
        self.assertEqual([one[0] for one in self.b.take()], ["apply", "keep", 0])

    def test_this_node_s_own_ring_as_scheduler(self):
        self.assertFalse(self.a.ring.name("ka", OWN))
        self.assertEqual(self.a.made.choose(), "ka")
        self.assertEqual(self.a.take(), [])
