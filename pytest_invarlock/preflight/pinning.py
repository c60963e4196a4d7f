"""Which commit of each Hub model and data set a session measures, and what stands against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.adapters.model_source import hub_parts
from pytest_invarlock.adapters.registry import BUILT_IN_ADAPTERS
from pytest_invarlock.errors import ConfigError, ModelLoadError
from pytest_invarlock.preflight import hub
from pytest_invarlock.preflight.local import local_source
from pytest_invarlock.preflight.revisions import (
    Pins,
    Revisions,
    hub_dataset,
    newest_revisions,
    read_revisions,
    resumed_revisions,
)

if TYPE_CHECKING:
    from pytest_invarlock.policy.settings import Settings
    from pytest_invarlock.policy.suite import Suite

STRICT_PROFILES = ("ci_cpu", "ci", "release")
"""Profiles in which a Hub model without a network needs a pinned revision."""
_NOWHERE = Revisions("", {})


@dataclass(slots=True)
class Pinning:
    """What was found so far.

    ``fetched_bytes`` by reference is what a model's weight files take that are not here yet.
    """

    models: dict[str, str] = field(default_factory=dict)
    datasets: dict[str, str] = field(default_factory=dict)
    resolved: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    fetched_bytes: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[ConfigError] = field(default_factory=list)

    def pins(self) -> Pins:
        """What the workers need, and the document of what the Hub or a file said."""
        document: Mapping[str, Any] | None = None
        if self.resolved:
            document = {
                "generated_at": _now(),
                "models": self.resolved.get("models", {}),
                "datasets": self.resolved.get("datasets", {}),
            }
        return Pins(self.models, self.datasets, document)


def references(suite: Suite) -> list[str]:
    """Every model of a suite as it was typed, baselines first, each once."""
    named = [pair.baseline for pair in suite.pairs]
    named += [s.subject for _, s in suite.planned() if s.subject is not None and not suite.tunes]
    return list(dict.fromkeys(named))


def pin_suite(
    suite: Suite,
    settings: Settings,
    out: Path,
    root: Path,
    into: Pinning,
    *,
    may_ask: bool = True,
) -> None:
    """Find the commits of a suite's Hub models and data set; problems are gathered, not raised.

    With the network the Hub is asked, and a file that is given and there says at which revision,
    else the run that is resumed. Without it the file, the resumed run or else the newest earlier
    run of the suite says the commit; a model that none names needs its own ``@revision`` in
    every profile but dev. Adapters of other packages
    read references of their own: none of theirs is looked at.

    Args:
        suite: its models, data and profile.
        settings: ``revisions``, ``resume`` and ``allow-network``.
        out: the output folder, with earlier runs.
        root: where a relative name of the file starts.
        into: what is found is added here.
        may_ask: whether to ask the Hub now, where the network is allowed.
    """
    try:
        revisions = _revisions(suite, settings, out, root)
    except ConfigError as error:
        into.problems.append(error)
        return
    network = settings.flag("allow-network")
    if network and not may_ask:
        into.notes += [
            f"{reference}: the run asks the Hub for its commit"
            for reference in references(suite)
            if hub_parts(reference) is not None
        ]
        return
    strict = suite.policy.profile in STRICT_PROFILES
    if suite.plan.adapter in BUILT_IN_ADAPTERS:
        for reference in references(suite):
            if reference not in into.models and hub_parts(reference) is not None:
                try:
                    _pin_model(reference, revisions, into, network=network, strict=strict)
                except ConfigError as error:
                    into.problems.append(error)
    dataset = hub_dataset(suite.plan)
    if dataset is not None and dataset not in into.datasets:
        try:
            _pin_dataset(dataset, suite.plan.source.revision, revisions, into, network=network)
        except ConfigError as error:
            into.problems.append(error)


def _revisions(suite: Suite, settings: Settings, out: Path, root: Path) -> Revisions:
    given = settings.text("revisions")
    network = settings.flag("allow-network")
    if given is not None:
        path = root / Path(given).expanduser()
        if network and not path.exists():
            return _NOWHERE
        return read_revisions(path, f"{settings.made['revisions'].origin}: {given}")
    resumed = settings.implied("resume")
    if resumed is not None:
        # Its records speak of these commits: of newer ones none could be taken over.
        pinned = resumed_revisions(out, suite, resumed, root)
        if pinned is not None:
            return pinned
    return _NOWHERE if network else newest_revisions(out, suite.name) or _NOWHERE


def _pin_model(
    reference: str, revisions: Revisions, into: Pinning, *, network: bool, strict: bool
) -> None:
    name = reference.removeprefix("hf:")
    repository, _, typed = name.partition("@")
    entry = revisions.entry("models", name)
    wanted = str(entry["revision"]) if entry is not None else typed or None
    if network:
        try:
            state = hub.ask_hub(repository, wanted, "model")
        except hub.HubUnreachable as error:
            into.notes.append(f"{name}: the Hub did not answer ({error}): as without the network")
        else:
            _refuse_closed(name, "model", state)
            into.models[reference] = _at(reference, state.commit)
            into.resolved.setdefault("models", {})[name] = _entry(state)
            if state.weights_bytes is not None and _cached(into.models[reference]) is None:
                into.fetched_bytes[reference] = state.weights_bytes
            return
    if wanted is None and strict:
        where = f"neither the reference nor {revisions.origin}" if revisions.origin else "nothing"
        raise ConfigError(
            f"{name}: {where} pins a revision of it, and the network is off",
            remedy="give --invarlock-revisions=FILE, name it as "
            f"{name}@COMMIT, or let --invarlock-allow-network resolve it once",
            code="REVISION_UNPINNED",
        )
    commit = _cached(_at(reference, wanted) if wanted is not None else reference)
    if commit is None and wanted is not None:
        raise ConfigError(
            f"{name}: revision {wanted} is not in the Hub cache {_cache()}",
            remedy=f"fetch it with `hf download {repository} --revision {wanted}`, or give "
            "--invarlock-allow-network",
            code="REVISION_NOT_CACHED",
        )
    if commit is None:
        # What is not there at all ends its own items, in the words of whoever looks for it.
        return
    into.models[reference] = _at(reference, commit)
    if entry is not None:
        into.resolved.setdefault("models", {})[name] = {**entry, "revision": commit}
    elif wanted is None:
        into.notes.append(f"{name}: no revision is pinned; the cache's {commit} is measured")


def _pin_dataset(
    name: str, typed: str | None, revisions: Revisions, into: Pinning, *, network: bool
) -> None:
    """A data set's commit; without one what is cached is read, and its digest tells what it was."""
    entry = revisions.entry("datasets", name)
    wanted = typed or (None if entry is None else str(entry["revision"]))
    if network:
        try:
            state = hub.ask_hub(name, wanted, "dataset")
        except hub.HubUnreachable as error:
            into.notes.append(f"{name}: the Hub did not answer ({error}): as without the network")
        else:
            _refuse_closed(name, "data set", state)
            into.datasets[name] = state.commit
            into.resolved.setdefault("datasets", {})[name] = _entry(state)
            return
    if typed is None and entry is not None:
        into.datasets[name] = str(entry["revision"])
        into.resolved.setdefault("datasets", {})[name] = dict(entry)


def _refuse_closed(name: str, what: str, state: hub.HubState) -> None:
    if not state.is_approved:
        raise ConfigError(
            f"{name}: this {what} is {'gated' if state.gated else 'private'}, and this account "
            "may not read it",
            remedy="accept its terms on the Hub and log in with `hf auth login`, or name another",
            code="HUB_GATED" if state.gated else "HUB_PRIVATE",
        )


def _entry(state: hub.HubState) -> dict[str, Any]:
    return {
        "revision": state.commit,
        "resolved_at": _now(),
        "gated": state.gated,
        "private": state.private,
    }


def _at(reference: str, revision: str) -> str:
    return f"{reference.partition('@')[0]}@{revision}"


def _cached(reference: str) -> str | None:
    """The commit of a reference in the local cache; None where it is not there."""
    try:
        return local_source(reference).revision
    except ModelLoadError as error:
        if error.code in ("MODEL_NOT_CACHED", "MODEL_NOT_FOUND"):
            return None
        # A damaged checkpoint is there: loading says what is wrong with it.
        return reference.partition("@")[2] or None


def _cache() -> str:
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def gathered(
    suites: Sequence[Suite], settings: Settings, out: Path, root: Path, *, may_ask: bool
) -> Pinning:
    """`pin_suite` of every suite of a session."""
    found = Pinning()
    for suite in suites:
        pin_suite(suite, settings, out, root, found, may_ask=may_ask)
    return found
