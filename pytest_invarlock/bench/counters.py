"""How often loading and measuring was done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """How often the expensive things were done; tests hold them to what was promised."""

    baseline_loads: int = 0
    baseline_passes: int = 0
    noise_floor_passes: int = 0
    first_looks: int = 0
    subject_loads: int = 0
    subject_passes: int = 0
    subject_windows: int = 0
    watch_passes: int = 0
