"""Evidence others can check: strict JSON, Ed25519 keys, DSSE, in-toto statements, sealed packs.

Names are imported on first use (PEP 562), so that reading a record does not load cryptography.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_invarlock.evidence.findings import Finding, VerifyReport
    from pytest_invarlock.evidence.manifest import ManifestHeader, ToolIdentity
    from pytest_invarlock.evidence.pack import SealedPack, seal_pack
    from pytest_invarlock.evidence.verified import VerifiedPack
    from pytest_invarlock.evidence.verify import VerifyOptions, verify_pack

__all__ = [
    "Finding",
    "ManifestHeader",
    "SealedPack",
    "ToolIdentity",
    "VerifiedPack",
    "VerifyOptions",
    "VerifyReport",
    "seal_pack",
    "verify_pack",
]

_HOMES = {
    "Finding": "findings",
    "ManifestHeader": "manifest",
    "SealedPack": "pack",
    "ToolIdentity": "manifest",
    "VerifiedPack": "verified",
    "VerifyOptions": "verify",
    "VerifyReport": "findings",
    "seal_pack": "pack",
    "verify_pack": "verify",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
