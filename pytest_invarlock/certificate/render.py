"""A certificate as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pytest_invarlock.certificate.tables import (
    DRIFT,
    NOISE,
    PAIRING,
    RESCALING,
    STRUCTURE,
    TAIL,
    NumberTable,
    Rows,
    divergence_table,
    metric_table,
    number_table,
    number_text,
)
from pytest_invarlock.certificate.what_changed import changed_families


def render_certificate_markdown(certificate: Mapping[str, Any]) -> str:
    """The certificate as a Markdown page: verdict first, then checks, numbers and identities."""
    decision = certificate["decision"]
    met = "as expected" if decision["expectation_met"] else "NOT as expected"
    lines = [
        _plain(f"# {certificate['model']} · {certificate['scenario']} · run {certificate['draw']}"),
        "",
        f"**{decision['outcome']}** ({decision['strictness'].replace('_', ' ')}: {met})",
        "",
        _plain(decision["text"]),
        "",
        f"Confidence {certificate['confidence']['label']}, from the "
        f"{_plain(certificate['confidence']['basis'])}.",
        "",
        "| check | outcome | why |",
        "|---|---|---|",
        *(
            f"| {_plain(c['check'])} | {c['outcome']} | {_plain(c['text'])} |"
            for c in decision["checks"]
        ),
        "",
        *_lines(metric_table(certificate["primary_metric"], certificate["convention"])),
        *_section("Tail", "loss differences of the final arm", certificate["tail"], TAIL),
        *_section("Drift", "preview against final arm", certificate["drift"], DRIFT),
        *_divergence(certificate["divergence"]),
        *_section("Noise floor", "the baseline, again", certificate["noise_floor"], NOISE),
        *_section("Pairing", "share", certificate["pairing"], PAIRING),
        *_section("What changed", "of the subject", certificate["structure"], STRUCTURE),
        *_families(certificate),
        *_rescaling(certificate["guards"].get("variance", {}), decision["checks"]),
        *_attested(certificate["attested"]),
        *_violations(decision["checks"]),
        "## Identity",
        "",
        f"- plan `{certificate['plan_digest']}`",
        f"- policy `{certificate['policy_digest']}` "
        f"(tier {_plain(certificate['auto']['tier'])}, "
        f"profile {_plain(certificate['auto']['profile'])})",
        f"- facts `{certificate['facts_digest']}`",
        _floors(certificate["floors"]),
        _determinism(certificate),
        *(
            f"- {side} tensors `{identity['tensors_digest']}`"
            for side, identity in certificate["identity"].items()
            if "tensors_digest" in identity
        ),
        "",
    ]
    return "\n".join(lines)


@lru_cache(maxsize=1024)
def _plain(text: str) -> str:
    """``text`` in one line that neither ends a table's cell nor begins an HTML tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _families(certificate: Mapping[str, Any]) -> list[str]:
    rows = [
        f"| {row.family} | {row.n_changed} | {row.n_parameters_changed} of {row.n_parameters} "
        f"| {_plain(row.module or 'nothing')} |"
        for row in changed_families(certificate)
    ]
    head = "| family | tensors changed | parameters in them | most changed |"
    return [head, "|---|---|---|---|", *rows, ""] if rows else []


def _floors(floors: Mapping[str, Any]) -> str:
    stated = ", ".join(
        f"{key.replace('_', ' ')} {number_text(value)}"
        for key, value in sorted(floors.items())
        if key != "not_met_by" and value is not None
    )
    short = _plain(", ".join(floors["not_met_by"]))
    return f"- floors: {stated or 'none'}" + (f"; not met by {short}" if short else "")


def _determinism(certificate: Mapping[str, Any]) -> str:
    seeds, asked = certificate["seeds"], certificate["determinism"]
    return (
        f"- determinism {asked['requested']}, threads {asked['threads']}; seed of the data "
        f"{seeds['dataset']}, draw {seeds['draw']}"
    )


def _divergence(divergence: Mapping[str, Any]) -> list[str]:
    if "not_evaluated" in divergence:
        why = _plain(divergence["not_evaluated"])
        return ["## Divergence", "", f"Not evaluated: {why}.", ""]
    return _lines(divergence_table(divergence))


def _section(title: str, caption: str, numbers: Mapping[str, Any] | None, names: Rows) -> list[str]:
    """A heading and a table of what of ``names`` was measured; nothing where nothing was."""
    return _lines(number_table(title, caption, numbers, names))


def _lines(table: NumberTable | None) -> list[str]:
    if table is None:
        return []
    rows = [f"| {_plain(label)} | {_plain(text)} |" for label, text in table.rows]
    head = [f"## {_plain(table.title)}", "", f"| {_plain(table.caption)} | |", "|---|---|"]
    return [*head, *rows, ""]


def _rescaling(evidence: Mapping[str, Any], checks: list[Mapping[str, Any]]) -> list[str]:
    """What the variance guard proposed; nothing where it looked for nothing, or was not asked."""
    numbers = next((check["numbers"] for check in checks if check["check"] == "variance"), None)
    proposals = evidence.get("proposals")
    if proposals is None or not numbers or "proposals" not in numbers:
        return []
    # In one order, whether read from a file or not.
    scales = {f"`{name}`": scale for name, scale in sorted(proposals["scales"].items())}
    names = tuple((name, f"scale proposed for {name}") for name in scales)
    rules = ", ".join(f"{key} {_listed(v)}" for key, v in sorted(proposals["rules"].items()))
    caption = "reported only: no verdict rests on it"
    made = _section("Rescaling (DD-VE)", caption, {**numbers, **scales}, (*names, *RESCALING))
    return [*made, f"Proposed by: {rules}.", ""]


def _listed(value: Any) -> str:
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value)


def _attested(guards: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Whose guards answered: nobody can derive what they said from the numbers."""
    if not guards:
        return []
    rows = [
        f"| {_plain(name)} "
        f"| {_plain(' '.join(filter(None, (one['distribution'], one['version']))) or 'unknown')} "
        f"| `{one['code'] or 'unknown'}` |"
        for name, one in sorted(guards.items())
    ]
    head = ["## Attested guards", "", "| guard | package | code |", "|---|---|---|"]
    return [*head, *rows, ""]


def _violations(checks: list[Mapping[str, Any]]) -> list[str]:
    rows = [
        f"| {_plain(check['check'])} | {_plain(v['kind'])} | {_plain(v['module'])} "
        f"| {_plain(str(v['value']))} | {_plain(str(v['threshold']))} |"
        for check in checks
        for v in check["violations"]
    ]
    if not rows:
        return []
    head = [
        "## Violations",
        "",
        "| guard | kind | module | found | allowed |",
        "|---|---|---|---|---|",
    ]
    return [*head, *rows, ""]
