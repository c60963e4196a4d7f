"""What a merged pack says of the packs it was made of: its signer's word, told to the reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_invarlock.evidence.findings import Finding, Stage
from pytest_invarlock.evidence.pack_schemas import MERGED

if TYPE_CHECKING:
    from pytest_invarlock.evidence.verified import VerifiedPack


def merged_note(pack: VerifiedPack) -> list[Finding]:
    """A note that names each source of a merged pack; nothing of one that was made by a run.

    Records and verdict are derived again as in any pack; that the sources were verified is what
    whoever merged them says.
    """
    if not pack.holds(MERGED):
        return []
    sources = pack.read_json(MERGED)["packs"]
    digests = [source["pack_digest"] for source in sources]
    if len(set(digests)) < len(digests):
        return [Finding("SEMANTIC_MISMATCH", Stage.SEMANTICS, MERGED, "names a pack twice")]
    told = "; ".join(
        f"{source['pack_digest']} of {source['run_id']}, "
        + (f"signed by {source['signer']}" if source["signer"] else "unsigned")
        for source in sources
    )
    return [Finding("MERGED", Stage.SEMANTICS, MERGED, f"its signer merged {told}", "note")]
