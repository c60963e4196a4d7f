"""How a regate reads: old and new outcome of every record, then what it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_invarlock.evidence.plain_text import plain

if TYPE_CHECKING:
    from pytest_invarlock.regate import Regated


def regate_lines(found: Regated) -> list[str]:
    """The lines for people; names and texts come from the pack, and are shown as plain text."""
    source = found.source
    signed = f"signed by {source['signer']}" if source["signer"] else "unsigned"
    rows = [
        (
            f"{plain(d.model)} {plain(d.scenario)} run {d.draw}",
            str(found.old[(d.model, d.scenario, d.draw)]["outcome"]),
            d.outcome.value,
            "" if d.expectation_met else plain(d.text, 300),
        )
        for d in found.decisions
    ]
    wide = max((len(row[0]) for row in rows), default=0)
    lines = [
        f"pack {source['pack_digest']}, run {plain(str(source['run_id']))}, {signed}: "
        f"verdict {source['verdict']}",
        f"judged again under {plain(found.name)}:",
        *(
            f"  {name:<{wide}}  {old} -> {new}{f'  {why}' if why else ''}"
            for name, old, new, why in rows
        ),
    ]
    if found.dropped:
        told = ", ".join(map(plain, found.dropped))
        lines.append(f"no longer counts, set by the suite file or a preset: {told}")
    lines += [
        f"broken: {rule.name}: {plain(rule.text)}"
        for rule in found.verdict.requirements
        if not rule.passed
    ]
    return [
        *lines,
        f"verdict {source['verdict']} -> {found.verdict.verdict}",
        "UNSEALED: nobody signed this verdict; it was computed here from the pack's records",
    ]
