"""The keys in a secrets file."""

from twisted.trial.unittest import SynchronousTestCase

from dlba.config.keys import KEYS_LIMIT, Keys, SecretKey, parse_keys
from dlba.errors import DLBAError

OLD = SecretKey("k1", b"0123456789abcdef0123456789abcdef")


class KeyTests(SynchronousTestCase):
    def test_lines(self):
        text = f"""
            # newest first
            b2 \t {"x" * 32}

            1Z {"é#" * 16}
            {"i" * 16} {"y" * 512}
        """
        self.assertEqual(
            parse_keys(text),
            Keys(
                (
                    SecretKey("b2", b"x" * 32),
                    SecretKey("1Z", "é#".encode() * 16),
                    SecretKey("i" * 16, b"y" * 512),
                )
            ),
        )

    def test_the_key_of_the_hash_signs_nothing(self):
        keys = parse_keys(f"hash {'h' * 32}\na {'x' * 32}")
        self.assertEqual(keys, Keys((SecretKey("a", b"x" * 32),), b"h" * 32))
        error = self.assertRaises(DLBAError, parse_keys, f"hash {'h' * 32}")
        self.assertEqual(str(error), "expected 1 to 64 keys, got 0")

    def test_mistakes_name_the_line_and_no_secret(self):
        good = "a " + "Q" * 32
        for text, message in (
            (f"{good}\nb {'Q' * 31}", "line 2: expected an id"),
            (f"b {'Q' * 513}", "line 1: expected an id"),
            (f"\n#\n{'b' * 17} {'Q' * 32}", "line 3: expected an id"),
            ("Q" * 40, "line 1: expected an id"),
            (f"b.c {'Q' * 32}", "line 1: expected an id"),
            (f"é {'Q' * 32}", "line 1: expected an id"),
            (f"b {'Q' * 32} {'Q' * 32}", "line 1: expected an id"),
            (f"{good}\n{good}", "line 2: the id a stands twice"),
            ("", "expected 1 to 64 keys, got 0"),
            ("# only\n\n", "expected 1 to 64 keys, got 0"),
        ):
            error = self.assertRaises(DLBAError, parse_keys, text)
            self.assertTrue(str(error).startswith(message), str(error))
            self.assertNotIn("QQ", str(error))

    def test_number_of_keys(self):
        lines = [f"k{n} {'x' * 32}" for n in range(KEYS_LIMIT + 1)]
        self.assertEqual(len(parse_keys("\n".join(lines[:-1])).signing), KEYS_LIMIT)
        self.assertIn("got 65", str(self.assertRaises(DLBAError, parse_keys, "\n".join(lines))))

    def test_a_key_isn_t_shown(self):
        keys = Keys((OLD,), OLD.key)
        self.assertNotIn("0123456789", repr(OLD) + str(OLD) + repr(keys) + str(keys))
