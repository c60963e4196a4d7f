"""The page that evidence_statistics.py writes: lines, claims and Monte-Carlo errors."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, field

import numpy as np

# Repetitions that share one set of resampling counts, and the granularity of every number.
CHUNK = 125


@dataclass
class Page:
    """Lines and claims gathered by the sections, and what fixes their numbers."""

    seed: int
    scale: int
    lines: list[str] = field(default_factory=list)
    claims: list[tuple[str, str, bool]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *key])

    def repetitions(self, full: int) -> int:
        return max(full // self.scale, CHUNK)

    def say(self, *lines: str) -> None:
        self.lines += lines

    def claim(self, text: str, found: str, met: bool) -> None:
        self.claims.append((text, found, met))
        self.say("", f"**{'met' if met else 'NOT met'}**: {text}. Found: {found}.")

    def section(self, title: str) -> None:
        print(f"{time.monotonic() - self.started:6.0f} s  {title}", file=sys.stderr, flush=True)
        self.say("", f"## {title}", "")


def error(share: float, repetitions: int) -> float:
    """Monte-Carlo standard error of a share; one miss's worth where none was seen."""
    bounded = min(max(share, 1 / repetitions), 1 - 1 / repetitions)
    return math.sqrt(bounded * (1 - bounded) / repetitions)


def with_error(share: float, repetitions: int) -> str:
    return f"{share:.4f} ± {error(share, repetitions):.4f}"
