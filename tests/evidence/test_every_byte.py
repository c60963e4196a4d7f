"""No byte of a pack is without effect: ``make evidence-tamper`` tries all, this a sample."""

from __future__ import annotations

import random
from typing import Any

from .flips import flipped, places
from .synthetic import errors

N_SAMPLE = 500
MAX_BYTES = 20_000


def test_a_flipped_bit_is_found(pack: Any) -> None:
    """Row 43."""
    every = places(pack)
    assert 10_000 < len(every) <= MAX_BYTES
    chosen = random.Random(43)
    for place in chosen.sample(every, N_SAMPLE):
        bit = chosen.randrange(8)
        with flipped(pack, place, bit):
            report = pack.verify()
        assert errors(report), (place, bit)
        assert report.exit_status >= 4, (place, bit, report.findings)
    assert pack.verify().ok
