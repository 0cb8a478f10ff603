"""Runs one history again and prints its story: `python -m tests.sim.replay SEED`."""

import sys

from tests.sim.histories import History


def main() -> None:
    for seed in sys.argv[1:]:
        History(int(seed), print).run()


if __name__ == "__main__":
    main()
