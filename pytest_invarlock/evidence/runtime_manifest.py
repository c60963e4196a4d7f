"""``runtime.manifest.json`` beside a certificate: which bytes it is, and what its run might do.

The fields are those of the original's runtime manifest, version 1. All of it follows from the
certificate's bytes and ``metadata/environment.json``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

FILE_NAME = "runtime.manifest.json"
CONTRACT = "runtime-manifest-v1"


def runtime_manifest(
    certificate_bytes: bytes, path: str, environment: Mapping[str, Any], *, plan_digest: str
) -> dict[str, Any]:
    """The runtime manifest of a certificate, as plain JSON values.

    Args:
        certificate_bytes: the certificate as it is written.
        path: where it stands, relative to the run's folder and to the pack.
        environment: `environment.environment_document` of its run.
        plan_digest: ``sha256:<hex>`` of the plan that the certificate holds: its configuration.
    """
    return {
        "manifest_version": 1,
        "verifier_contract_version": CONTRACT,
        "generated_at_utc": environment["recorded_at"],
        "report": {
            "path": path,
            "filename": path.rpartition("/")[2],
            "sha256": hashlib.sha256(certificate_bytes).hexdigest(),
        },
        "config": {
            "path": None,
            "sha256": plan_digest.removeprefix("sha256:"),
            "source": "inline",
        },
        "execution_mode": environment["execution_mode"],
        "runtime": dict(environment["runtime"]),
    }
