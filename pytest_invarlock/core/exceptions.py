"""The typed errors under the name the Python API gives them."""

from __future__ import annotations

from pytest_invarlock.errors import (
    AdapterError,
    ConfigError,
    DataError,
    EditError,
    EvidenceError,
    GuardError,
    InvarlockError,
    MeasurementError,
    ModelLoadError,
    SigningKeyError,
)

__all__ = [
    "AdapterError",
    "ConfigError",
    "DataError",
    "EditError",
    "EvidenceError",
    "GuardError",
    "InvarlockError",
    "MeasurementError",
    "ModelLoadError",
    "SigningKeyError",
]
