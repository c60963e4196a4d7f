"""Flip one bit of every byte of a small sealed pack, and count what the strict profile says.

Ends with status 1 where a flipped bit is accepted, or gives anything but a finding.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.evidence.flips import flipped, places  # noqa: E402 - the tests are no package
from tests.evidence.synthetic import errors, sealed  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.evidence.synthetic import Pack

MAX_BYTES = 20_000


def flip_every_byte(pack: Pack, bits: int) -> tuple[Counter[str], list[str]]:
    """Verify with each byte changed in ``bits`` of its bits; codes counted, and what was accepted.

    Which bit it is goes round with the byte's index, so that all eight are met in every file.
    """
    counts: Counter[str] = Counter()
    accepted = []
    for path, index in places(pack):
        for turn in range(bits):
            bit = (index + turn) % 8
            with flipped(pack, (path, index), bit):
                report = pack.verify()
            found = errors(report)
            if report.ok or not found or report.exit_status < 4:
                accepted.append(f"{path} byte {index} bit {bit}")
            else:
                counts[f"{found[0]} (exit {int(report.exit_status)})"] += 1
    return counts, accepted


def main(arguments: Sequence[str] | None = None) -> int:
    """Seal, flip, verify, print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, default=1, choices=range(1, 9), help="of each byte")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        pack = sealed(Path(folder) / "pack")
        n_bytes = len(places(pack))
        if n_bytes > MAX_BYTES or not pack.verify().ok:
            print(f"the pack has {n_bytes} bytes, or does not verify", file=sys.stderr)
            return 1
        start = time.perf_counter()
        counts, accepted = flip_every_byte(pack, options.bits)
        seconds = time.perf_counter() - start
        if not pack.verify().ok:
            print("the pack was not set back", file=sys.stderr)
            return 1
    for code, n in counts.most_common():
        print(f"{n:7} {code}")
    print(f"{sum(counts.values()):7} of {n_bytes * options.bits} flips refused, {seconds:.0f} s")
    for place in accepted:
        print(f"ACCEPTED: {place}", file=sys.stderr)
    return int(bool(accepted))


if __name__ == "__main__":
    raise SystemExit(main())
