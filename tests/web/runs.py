"""Says how long the fuzz runs: DLBA_FUZZ_RUNS, or a few seconds in all without it."""

import os

from hypothesis import settings

#: Rounds of `tests.web.test_fuzz_exchange` without DLBA_FUZZ_RUNS.
ROUNDS = 5


def rounds() -> int:
    """Rounds of each kind of traffic."""
    return int(os.environ.get("DLBA_FUZZ_RUNS", ROUNDS))


def examples(few: int) -> settings:
    """Settings of hypothesis. `few`: examples without DLBA_FUZZ_RUNS, always the same ones."""
    return settings(
        deadline=None,
        max_examples=max(1, few * rounds() // ROUNDS),
        derandomize="DLBA_FUZZ_RUNS" not in os.environ,
    )
