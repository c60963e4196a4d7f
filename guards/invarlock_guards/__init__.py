"""Guards that compare a baseline model with its subject, usable with or without pytest.

Names are imported on first use, so that the contract and the judges are reachable without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invarlock_guards.answers import GuardAnswerError
    from invarlock_guards.chain import ChainResult, GuardChain
    from invarlock_guards.contract import Guard, GuardEvidence, GuardResult, Violation
    from invarlock_guards.measure.invariants import InvariantsGuard
    from invarlock_guards.measure.rmt import RMTGuard
    from invarlock_guards.measure.spectral import SpectralGuard
    from invarlock_guards.measure.variance import VarianceGuard

_HOMES = {
    "ChainResult": "invarlock_guards.chain",
    "Guard": "invarlock_guards.contract",
    "GuardAnswerError": "invarlock_guards.answers",
    "GuardChain": "invarlock_guards.chain",
    "GuardEvidence": "invarlock_guards.contract",
    "GuardResult": "invarlock_guards.contract",
    "Violation": "invarlock_guards.contract",
    "InvariantsGuard": "invarlock_guards.measure.invariants",
    "RMTGuard": "invarlock_guards.measure.rmt",
    "SpectralGuard": "invarlock_guards.measure.spectral",
    "VarianceGuard": "invarlock_guards.measure.variance",
}

__all__ = [
    "ChainResult",
    "Guard",
    "GuardAnswerError",
    "GuardChain",
    "GuardEvidence",
    "GuardResult",
    "InvariantsGuard",
    "RMTGuard",
    "SpectralGuard",
    "VarianceGuard",
    "Violation",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
