"""Copy what a record may hold into the certificate's schema, which shows it; ``--check`` compares.

Run it after every change of the facts in ``record.schema.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMAS = Path(__file__).resolve().parents[1] / "policies" / "schemas"
CERTIFICATE = SCHEMAS / "certificate.schema.json"
# Where each part of the facts stands in a certificate.
SHOWN: dict[str, tuple[str, ...]] = {
    "plan": ("plan",),
    "data": ("dataset",),
    "baseline": ("identity", "baseline"),
    "subject": ("identity", "subject"),
    "edit": ("edit",),
    "guards": ("guards",),
    "attested": ("attested",),
    "divergence": ("divergence",),
    "noise_floor": ("noise_floor",),
}


def current() -> str:
    """The certificate's schema with the parts that records define."""
    record = json.loads((SCHEMAS / "record.schema.json").read_text(encoding="utf-8"))
    certificate: dict[str, Any] = json.loads(CERTIFICATE.read_text(encoding="utf-8"))
    for part, (*outer, last) in SHOWN.items():
        place = certificate
        for key in outer:
            place = place["properties"][key]
        place["properties"][last] = record["properties"]["facts"]["properties"][part]
    return json.dumps(certificate, indent=2) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write, or with ``--check`` compare; exit status 1 where the schema is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    stale = CERTIFICATE.read_text(encoding="utf-8") != current()
    if parser.parse_args(arguments).check:
        if stale:
            print(f"{CERTIFICATE} is stale: run this script", file=sys.stderr)
        return int(stale)
    CERTIFICATE.write_text(current(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
