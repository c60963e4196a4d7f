"""What a measurement was asked for, as far as it can be known before a model is loaded.

Two measurements with equal requests give equal facts; that is what an earlier record is taken over
for. No policy is in a request, and no text or path: files stand there by digest. It stays in the
run's ``state``, for the digest of private data must not leave the machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from pytest_invarlock.adapters.model_source import checkpoint_digest, resolve_model
from pytest_invarlock.adapters.registry import BUILT_IN_ADAPTERS
from pytest_invarlock.bench.guard_sources import InstalledGuards
from pytest_invarlock.core.determinism import CUBLAS_VARIABLE, device_identity, resolve_plan
from pytest_invarlock.data import get_provider
from pytest_invarlock.data.providers import RowProvider
from pytest_invarlock.errors import AdapterError
from pytest_invarlock.policy.edit_names import kind_of
from pytest_invarlock.provenance import code_digest, library_versions, machine

if TYPE_CHECKING:
    from pytest_invarlock.plan import DataSource, MeasurementPlan, Pair, Scenario
    from pytest_invarlock.records import Facts

# Where data lies and whether it may be fetched changes nothing that is read.
_NO_IDENTITY = ("locations", "cache_dir", "allow_network")
# What libraries read of the environment that changes the bits of a product.
_VARIABLES = (CUBLAS_VARIABLE, "NVIDIA_TF32_OVERRIDE", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA")


@dataclass(slots=True, repr=False)
class Requests:
    """The requests of one worker; data and models are identified once.

    ``workers`` is how many share the host's cores.
    """

    workers: int
    allow_network: bool
    _sources: dict[DataSource, dict[str, Any]] = field(default_factory=dict)
    _models: dict[str, dict[str, Any]] = field(default_factory=dict)

    def asked(self, pair: Pair, scenario: Scenario, plan: MeasurementPlan) -> dict[str, Any]:
        """All of a request but its models; data is read for it, so ask before measuring.

        Raises:
            InvarlockError: something cannot be identified: no such device, data that cannot be
                read, a guard that is not installed, another package's adapter.
            OSError: a file cannot be read.
        """
        if plan.adapter not in BUILT_IN_ADAPTERS:
            raise AdapterError(
                f"adapter {plan.adapter!r} is another package's: what it loads is not known "
                "before it is loaded",
                remedy="",
                code="NOT_IDENTIFIABLE",
            )
        resolved = resolve_plan(plan, workers=self.workers)
        guards = InstalledGuards()
        return {
            "model": pair.name,
            "scenario": scenario.name,
            "draw": plan.draw,
            "kind": kind_of(scenario),
            "plan": {
                one.name: _plain(getattr(resolved, one.name))
                for one in fields(resolved)
                if one.name not in ("source", "foreign_guards", "draw")
            },
            "data": self._source(plan.source),
            "foreign_guards": [
                {"name": one.name, "gates": one.gates, **_plain(guards.identity(one))}
                for one in plan.foreign_guards
            ],
            "code": code_digest(),
            "versions": library_versions(),
            "device": device_identity(resolved.device),
            "machine": {name: machine()[name] for name in ("system", "architecture")},
            "environment": {name: os.environ.get(name) for name in _VARIABLES},
        }

    def expected(self, pair: Pair, scenario: Scenario, plan: MeasurementPlan) -> dict[str, Any]:
        """The whole request, with the models as they lie there now; nothing is loaded.

        Raises as `asked` does, and ModelLoadError for a model that is not there.
        """
        subject = scenario.subject
        return {
            **self.asked(pair, scenario, plan),
            "baseline": self._model(pair.baseline),
            "subject": _edit(scenario) if subject is None else self._model(subject),
        }

    def _source(self, source: DataSource) -> dict[str, Any]:
        if source not in self._sources:
            provider = get_provider(source.provider, source)
            stated = {k: v for k, v in asdict(source).items() if k not in _NO_IDENTITY}
            files = provider.files() if isinstance(provider, RowProvider) else ()
            self._sources[source] = _plain(
                {
                    **stated,
                    "digest": provider.source_digest(),
                    # The extension says how a file is read.
                    "extensions": ["".join(path.suffixes[-2:]).lower() for path in files],
                    "names": provider.public_names(),
                }
            )
        return self._sources[source]

    def _model(self, reference: str) -> dict[str, Any]:
        if reference not in self._models:
            source = resolve_model(reference, allow_network=self.allow_network)
            self._models[reference] = (
                {"checkpoint": checkpoint_digest(source.directory)}
                if source.revision is None
                else {"repository": source.repository, "revision": source.revision}
            )
        return self._models[reference]


def answered(asked: Mapping[str, Any], pair: Pair, scenario: Scenario, facts: Facts) -> Any:
    """The whole request of a record, with the models as they were loaded; None where not known."""
    baseline = _loaded(pair.baseline, facts.baseline)
    subject = (
        _edit(scenario) if scenario.subject is None else _loaded(scenario.subject, facts.subject)
    )
    if baseline is None or subject is None:
        return None
    return {**asked, "baseline": baseline, "subject": subject}


def _loaded(reference: str, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    if identity.get("revision") is not None:
        repository = reference.removeprefix("hf:").partition("@")[0]
        return {"repository": repository, "revision": identity["revision"]}
    checkpoint = identity.get("checkpoint_digest")
    return None if checkpoint is None else {"checkpoint": checkpoint}


def _edit(scenario: Scenario) -> dict[str, Any]:
    if scenario.edit is None:
        raise ValueError(f"scenario {scenario.name!r} has no edit")
    return {"edit": _plain(scenario.edit.document())}


def _plain(value: Any) -> Any:
    """``value`` as JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    return value
