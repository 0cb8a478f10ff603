"""Writes COUNT MiB that never repeat to standard output: `generator.py COUNT`.

Each MiB is the same random block with its number in front; the last line of standard error is the
SHA-256 of all.
"""

import hashlib
import random
import sys

MIB = 1 << 20


def main():
    block = random.Random(2026).randbytes(MIB - 8)
    digest = hashlib.sha256()
    for number in range(int(sys.argv[1])):
        for part in (number.to_bytes(8, "big"), block):
            digest.update(part)
            sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()
    print(digest.hexdigest(), file=sys.stderr)


if __name__ == "__main__":
    main()
