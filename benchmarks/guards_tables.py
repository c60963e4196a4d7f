"""Shares, intervals and tables of the guards' evidence: rows in, Markdown lines out."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from guards_bench import GUARDS
from intervals import told as told  # other pages take it from here
from intervals import wilson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Row = dict[str, Any]
LISTED = 25
GROUP_OF = {"cast": "strict", "quantize8": "strict", "quantize4": "compression"} | {
    "prune": "compression"
}


def share(count: int, n: int) -> str:
    """A share with two digits, for tables whose rows give n."""
    return "" if n == 0 else f"{count / n:.2f}".removeprefix("0") if count < n else "1"


def fired(row: Row, guard: str, kind: str) -> bool:
    """Whether the gate of ``guard`` fails ``row`` under ``kind``."""
    return bool(row["verdicts"][kind].get(guard) == "fail")


def caught(row: Row, kind: str) -> bool:
    return any(fired(row, guard, kind) for guard in GUARDS)


def alarmed(row: Row, kind: str) -> bool:
    """Whether any guard fails, cannot judge or is missing: a benign run may have none of that."""
    words = row["verdicts"][kind]
    return any(words.get(guard) not in ("pass", "warn") for guard in GUARDS)


def warned(row: Row, kind: str) -> bool:
    return not alarmed(row, kind) and "warn" in row["verdicts"][kind].values()


def basis_told(row: Row, kind: str) -> bool:
    """Whether the one warning is spectral's, on a model that does have another basis.

    Spectral warns of nothing else where the architecture is known: `basis_changed`.
    """
    warning = [guard for guard, word in row["verdicts"][kind].items() if word == "warn"]
    return warned(row, kind) and warning == ["spectral"] and row["kind"] == "reparametrized"


def count(rows: Iterable[Row], test: Callable[[Row], bool]) -> int:
    return sum(1 for row in rows if test(row))


def by(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """``rows`` by the values of ``keys``, in order of name and then of numeric dose."""
    found: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        found[tuple(row[key] for key in keys)].append(row)
    return dict(sorted(found.items(), key=lambda item: tuple(_order(v) for v in item[0])))


def _order(value: Any) -> tuple[int, float, str]:
    try:
        return 0, float(value), ""
    except ValueError:
        return 1, 0.0, str(value)


def benign_table(rows: Sequence[Row], *keys: str) -> list[str]:
    """Alarms and warnings by ``keys``; runs that the metric does not pass are counted apart."""
    lines = [
        f"| {' | '.join(keys)} | metric passes | alarms, declared kind | alarms, `any` "
        "| warnings, declared | warnings, `any` |",
        "|---" * (len(keys) + 5) + "|",
    ]
    for values, group in by(rows, *keys).items():
        passed = [row for row in group if row["pm"] == "pass"]
        n = len(passed)
        lines.append(
            f"| {' | '.join(map(str, values))} | {n} of {len(group)} "
            f"| {count(passed, lambda r: alarmed(r, r['kind']))} "
            f"| {count(passed, lambda r: alarmed(r, 'any'))} "
            f"| {count(passed, lambda r: warned(r, r['kind']))} "
            f"| {count(passed, lambda r: warned(r, 'any'))} |"
        )
    return lines


def alarm_list(rows: Sequence[Row]) -> list[str]:
    """Every benign alarm, with the value that broke its limit."""
    lines = []
    for row in rows:
        for kind in dict.fromkeys((row["kind"], "any")):
            for guard, word in row["verdicts"][kind].items():
                if word in ("fail", "error"):
                    what, module, value, limit = row["first"][kind].get(guard, (word, "", 0, 0))
                    lines.append(
                        f"- {row['model']}, {row['name']} {row['dose']} ({row['site']}), as "
                        f"`{kind}`: {guard}, {what} of `{module}` {_number(value)}, "
                        f"limit {_number(limit)}; largest relative change "
                        f"{_number(row['statistics'].get('relative_change', 0.0))}, largest "
                        f"error {_number(row['statistics'].get('error', 0.0))}, metric "
                        f"{_number(row['ratio'])}"
                    )
    more = [f"- … and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    return [*lines[:LISTED], *more] or ["None."]


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def damage_table(rows: Sequence[Row]) -> list[str]:
    """By class and dose: the share that each guard's gate catches, beside the metric."""
    lines = [
        "| class | dose | n | metric does not pass | invariants | spectral | rmt | variance "
        "| any gate | as `quantize8` | passed by the metric | of these caught |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, dose), group in by(rows, "name", "dose").items():
        n = len(group)
        hidden = [row for row in group if row["pm"] == "pass"]
        guards = " | ".join(
            share(count(group, lambda r, g=guard: fired(r, g, r["kind"])), n)  # type: ignore[misc]
            for guard in GUARDS
        )
        gate = count(group, lambda r: caught(r, r["kind"]))
        strict = share(count(group, lambda r: caught(r, "quantize8")), n)
        in_hidden = count(hidden, lambda r: caught(r, r["kind"]))
        low, high = wilson(gate, n)
        lines.append(
            f"| {name} | {dose} | {n} | {share(n - len(hidden), n)} | {guards} "
            f"| {share(gate, n)} [{low:.2f}, {high:.2f}] | {strict} | {len(hidden)} "
            f"| {share(in_hidden, len(hidden))} |"
        )
    return lines


def missed_list(rows: Sequence[Row]) -> list[str]:
    """Damage that went unseen, by class, dose and site."""
    lines = [
        f"- {row['model']}, {row['name']} {row['dose']} at {row['site']}: relative change "
        f"{row['statistics'].get('relative_change', 0):.3f}, canonical "
        f"{row['statistics'].get('canon', 0):.3f}, error {row['statistics'].get('error', 0):.3f}, "
        f"ln rms {row['statistics'].get('log_rms', 0):.3f}; metric {_number(row['ratio'])}"
        for row in rows
    ]
    more = [f"- … and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    return [*lines[:LISTED], *more] or ["None."]


def own_class(
    rows: Sequence[Row], guard: str, half: frozenset[str], least: int = 3
) -> tuple[str, tuple[int, int], tuple[int, int]] | None:
    """The class, at all doses or at one, that ``guard`` alone sees most often on half the models.

    Returns it with (seen by this guard alone, runs) on that half and on the other; None where no
    class has ``least`` runs on either of which one is seen by it alone. Of equals, the most runs.
    """
    groups = {f"{name} {dose}".strip(): g for (name, dose), g in by(rows, "name", "dose").items()}
    groups |= {name: group for (name,), group in by(rows, "name").items()}
    found = []
    for name, group in groups.items():
        alone: Counter[bool] = Counter()
        n: Counter[bool] = Counter()
        for row in group:
            inside = row["model"] in half
            n[inside] += 1
            alone[inside] += [g for g in GUARDS if fired(row, g, row["kind"])] == [guard]
        if min(n[True], n[False]) >= least and alone[True]:
            found.append((name, (alone[True], n[True]), (alone[False], n[False])))
    return max(found, key=lambda one: (one[1][0] / one[1][1], one[1][1]), default=None)


def first_named(row: Row, kind: str, guards: Sequence[str] = GUARDS) -> str | None:
    """The module that the first of ``guards`` to fail names first; None where none fails."""
    for guard in guards:
        if fired(row, guard, kind) and guard in row["first"][kind]:
            return str(row["first"][kind][guard][1])
    return None


def is_within(module: str, branch: str) -> bool:
    """Whether ``module``, a parameter, projection or branch, is of ``branch``."""
    return module == branch or module.startswith(branch + ".")
