"""Windows drawn again as a record states them, from the data and the models that a suite names.

What is drawn and how stands in the record, for settings beside the suite may have said it. Nothing
is fetched, and of weights only the headers are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pytest_invarlock.adapters.checkpoint_loading import load_tokenizer
from pytest_invarlock.adapters.checkpoint_shapes import lay_out_checkpoint
from pytest_invarlock.adapters.hf_adapter import HF_Adapter
from pytest_invarlock.adapters.loaded_model import context_length
from pytest_invarlock.adapters.model_source import hub_parts
from pytest_invarlock.adapters.registry import BUILT_IN_ADAPTERS, adapter_named
from pytest_invarlock.data import draw_windows, get_provider
from pytest_invarlock.data.tokenizer_fingerprint import tokenizer_fingerprint
from pytest_invarlock.errors import DataError, InvarlockError
from pytest_invarlock.evidence.strict_json import digest
from pytest_invarlock.plan import WindowSelection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_invarlock.data import Provider, WindowSet
    from pytest_invarlock.data.window_set import Reading
    from pytest_invarlock.policy.suite import Suite
    from pytest_invarlock.records import Facts

UNCHECKED = "DATA_UNCHECKED"
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Drawn:
    """Windows drawn again; ``source`` is what the provider says of itself, ``tokenizer`` the
    fingerprint of the tokenizer they were made with.
    """

    windows: WindowSet
    source: Mapping[str, Any]
    tokenizer: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Reader:
    """How a baseline reads: its tokenizer, reading and greatest length in tokens."""

    tokenizer: Any
    reading: Reading
    context: int | None


@dataclass(slots=True, eq=False, repr=False)
class DrawingAgain:
    """Draws each set of windows once; those of one model at a time are kept."""

    suite: Suite
    otherwise: set[str] = field(default_factory=set)
    """Keys of the windows' selection that a record states otherwise than the suite."""
    _model: str | None = None
    _readers: dict[tuple[str, str], _Reader] = field(default_factory=dict)
    _drawn: dict[str, Drawn | InvarlockError] = field(default_factory=dict)
    _providers: dict[str | None, Provider] = field(default_factory=dict)

    def drawn(self, facts: Facts) -> Drawn:
        """The windows that ``facts`` were measured on, by what they state.

        Raises:
            DataError: DATA_UNCHECKED for windows that cannot be drawn again; others as in drawing.
            ModelLoadError, AdapterError: the baseline's tokenizer or configuration cannot be read.
            ConfigError: what is stated does not go with the data or the model.
        """
        if facts.model != self._model:
            self._model = facts.model
            self._readers.clear()
            self._drawn.clear()
        data_revision, revision = _revisions(facts)
        key = digest(
            {
                "draw": facts.draw,
                "revisions": [data_revision, revision],
                **{k: facts.plan[k] for k in ("windows", "metric", "mask_probability")},
                "adapter": facts.baseline.get("adapter"),
                "provider": (facts.plan["source"] or {}).get("provider"),
            }
        )
        if key not in self._drawn:
            try:
                self._drawn[key] = self._draw(facts, data_revision, revision)
            except InvarlockError as error:
                # The other records of these windows end the same way.
                self._drawn[key] = error
        found = self._drawn[key]
        if isinstance(found, InvarlockError):
            raise found
        return found

    def _draw(self, facts: Facts, data_revision: str | None, revision: str | None) -> Drawn:
        reason = _unsupported(facts)
        if reason is not None:
            raise _unchecked(reason)
        own = self.suite.plan.windows.document()
        stated = facts.plan["windows"]
        self.otherwise |= {key for key in stated if stated[key] != own.get(key)}
        reader = self._reader(facts, revision)
        provider = self._provider(data_revision)
        plan = facts.plan
        probability = plan["mask_probability"]
        windows = draw_windows(
            provider,
            reader.tokenizer,
            WindowSelection(**plan["windows"]),
            draw=facts.draw,
            context=reader.context,
            reading=reader.reading,
            metric=plan["metric"],
            **({} if probability is None else {"mask_probability": probability}),
        )
        return Drawn(windows, provider.identity(), tokenizer_fingerprint(reader.tokenizer))

    def _provider(self, revision: str | None) -> Provider:
        if revision not in self._providers:
            source = replace(self.suite.plan.source, allow_network=False)
            if revision is not None:
                source = replace(source, revision=revision)
            self._providers[revision] = get_provider(source.provider, source)
        return self._providers[revision]

    def _reader(self, facts: Facts, revision: str | None) -> _Reader:
        baselines = {pair.name: pair.baseline for pair in self.suite.pairs}
        if facts.model not in baselines:
            raise _unchecked(f"the suite names no model {facts.model!a}")
        key = _at_commit(baselines[facts.model], revision), str(facts.baseline["adapter"])
        if key not in self._readers:
            self._readers[key] = _read(*key)
        return self._readers[key]


def _read(reference: str, adapter: str) -> _Reader:
    made = adapter_named(adapter)
    if not isinstance(made, HF_Adapter):
        raise _unchecked(f"adapter {adapter!a} says of no checkpoint how it is read")
    source = made.source_of(reference)
    tokenizer = load_tokenizer(source)
    model, reading = lay_out_checkpoint(source, made.reading_of)
    return _Reader(tokenizer, reading, context_length(model))


def _unsupported(facts: Facts) -> str | None:
    """Why the windows of a record cannot be drawn again; None where they can."""
    if facts.plan["source"] is None or facts.plan["source"]["provider"] == "given":
        return "its windows were given ready-made, and not drawn"
    if facts.plan["windows"].get("pool", "certification") != "certification":
        return "its windows are of the tuning arm, whose number is not planned"
    if facts.plan["metric"] == "auto":
        return "it does not state which metric was measured"
    if facts.plan["draw"] != facts.draw:
        return "its plan is of another draw"
    if facts.baseline.get("adapter") not in BUILT_IN_ADAPTERS:
        return "its baseline was loaded by another package's adapter"
    return None


def _revisions(facts: Facts) -> tuple[str | None, str | None]:
    """The commits of the data set and of the baseline that were measured, where they are stated."""
    stated = (facts.plan["source"] or {}).get("revision"), facts.baseline.get("revision")
    data, model = (one if _COMMIT.fullmatch(one or "") else None for one in stated)
    return data, model


def _at_commit(reference: str, revision: str | None) -> str:
    """A Hub model at the commit that was measured; any other reference as it is."""
    parts = hub_parts(reference)
    return reference if revision is None or parts is None else f"hf:{parts[0]}@{revision}"


def _unchecked(reason: str) -> DataError:
    return DataError(reason, remedy="", code=UNCHECKED)
