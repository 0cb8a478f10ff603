"""Says how long the fuzz runs: DLBA_FUZZ_RUNS, or a few seconds in all without it."""

import os

from hypothesis import settings

#: Rounds of `tests.web.test_fuzz_exchange` without DLBA_FUZZ_RUNS.
ROUNDS = 5


def rounds() -> int:
    """Rounds of each kind of traffic."""
    return int(os.environ.get("DLBA_FUZZ_RUNS", ROUNDS))


def examples(few: int) -> settings:
    """Settings of hypothesis. `few`: examples in as many rounds as usual.

    Others each time only where more rounds are asked for than usual.
    """
    return settings(
        deadline=None,
        max_examples=max(1, few * rounds() // ROUNDS),
        derandomize=rounds() <= ROUNDS,
    )
