"""An interruption at any line of an edit: the resident is whole again, or gone and reloaded."""

from __future__ import annotations

import contextlib
import copy
import random
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import FrameType, GeneratorType
from typing import TYPE_CHECKING, Any

import pytest
import torch

import pytest_invarlock
from pytest_invarlock.adapters import LoadedModel
from pytest_invarlock.bench import resident
from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.resident import Bench
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.core.engine import measure
from pytest_invarlock.data.window_set import WindowSet
from pytest_invarlock.edits import registry
from pytest_invarlock.errors import EditError
from pytest_invarlock.plan import (
    ARMS,
    DataSource,
    EditSpec,
    MeasurementPlan,
    Pair,
    Scenario,
    WindowSelection,
)

if TYPE_CHECKING:
    from collections.abc import Callable

GATE = "model.layers.0.mlp.gate_proj.weight"
PACKAGE = str(Path(pytest_invarlock.__file__).parent)
EDIT_FILES = ("bench/resident.py", "bench/journal.py", "edits/", "faults/")
NOT_EDITS = ("edits/targets.py", "faults/targets.py")
BOOKKEEPING = ("resident.py", "journal.py", "contextlib.py")
EDITS = [
    EditSpec("quant_rtn", {"bitwidth": 4, "layers": [0]}),
    EditSpec("swap_layers"),
    EditSpec("rescale_gated_pair", {"layers": [0]}),
]


class PristineAdapter:
    """Gives a fresh copy of one model; counts its loads."""

    name = "pristine"

    def __init__(self, model: Any) -> None:
        self.model = model
        self.loads = 0

    def load(self, *_: object, **__: object) -> LoadedModel:
        self.loads += 1
        return LoadedModel(copy.deepcopy(self.model), None, None, 128, None)


@pytest.fixture
def bench(tiny_model: Any, windows: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Bench:
    # Collecting garbage for each of some hundred drops takes longer than all else.
    monkeypatch.setattr(resident, "free_memory", lambda: None)
    arms: dict[Any, Any] = {
        arm: tuple(replace(w, document=w.document + 1000 * n) for w in windows(count=4, seed=n))
        for n, arm in enumerate(ARMS)
    }
    plan = MeasurementPlan(
        source=DataSource("given"), windows=WindowSelection(96, 96, 4, 4),
        device="cpu", dtype="float32", threads=1, batch_tokens=512,
    )  # fmt: skip
    made = Bench(Pair("m", "m"), plan, adapter=PristineAdapter(tiny_model("llama")))  # type: ignore[arg-type]
    made.use_windows(0, WindowSet(arms, "sha256:" + "0" * 64, 96, dict.fromkeys(ARMS, 4)))
    return made


Place = tuple[str, int, int]


class Interruption:
    """Raises KeyboardInterrupt at a visit of a traced line; of ``edited`` at that of an opcode."""

    def __init__(self, place: Place | None = None, visit: int = 0) -> None:
        self.strikes = (place, visit)
        self.visits: Counter[Place] = Counter()

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if not where_edits_happen(frame):
            return None
        opcodes = frame.f_code.co_name == "edited"
        frame.f_trace_opcodes = opcodes
        if event == ("opcode" if opcodes else "line"):
            file = Path(frame.f_code.co_filename).name
            place = (file, frame.f_lineno, frame.f_lasti if opcodes else 0)
            self.visits[place] += 1
            if (place, self.visits[place]) == self.strikes:
                raise KeyboardInterrupt
        return self


def where_edits_happen(frame: FrameType) -> bool:
    if frame.f_code.co_filename == contextlib.__file__:
        generator = getattr(frame.f_locals.get("self"), "gen", None)
        return isinstance(generator, GeneratorType) and generator.gi_code.co_name == "edited"
    name = frame.f_code.co_filename.removeprefix(PACKAGE).lstrip("/")
    return name.startswith(EDIT_FILES) and not name.startswith(NOT_EDITS)


def traced(bench: Bench, spec: EditSpec, interruption: Interruption) -> bool:
    """Whether ``interruption`` struck while ``spec`` was applied and undone."""
    before, gradients = sys.gettrace(), torch.is_grad_enabled()
    sys.settrace(interruption)
    try:
        with bench.edited(spec):
            pass
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
        # Struck between its last line and its exit, a ``with no_grad()`` is never left.
        torch.set_grad_enabled(gradients)
    return False


def visits(bench: Bench, spec: EditSpec) -> list[tuple[Place, int]]:
    """The first and the last visit of every traced line and opcode."""
    recording = Interruption()
    assert not traced(bench, spec, recording)
    return [(place, n) for place, last in recording.visits.items() for n in sorted({1, last})]


def chosen(places: list[tuple[Place, int]], spec: EditSpec) -> list[tuple[Place, int]]:
    """With the first edit every line of the bookkeeping, which all share; of the rest a sixth."""
    chance = random.Random(spec.name)
    files = {place[0]: [one for one in places if one[0][0] == place[0]] for place, _ in places}
    kept: set[tuple[Place, int]] = set()
    for file, found in files.items():
        every = spec is EDITS[0] and file in BOOKKEEPING
        kept.update(found if every else chance.sample(found, -(-len(found) // 6)))
    # In their order: what is held of the baseline is there until one of them drops it.
    return [one for one in places if one in kept]


def sound(bench: Bench, before: dict[str, str]) -> bool:
    return bench._loaded is None or tensor_digests(bench._loaded.model) == before


@pytest.mark.parametrize("spec", EDITS, ids=lambda spec: spec.name)
def test_an_interruption_at_any_line_leaves_the_baseline_or_none(
    spec: EditSpec, bench: Bench
) -> None:
    before = tensor_digests(bench.baseline.model)
    scenario = Scenario(spec.name, edit=spec)
    facts = measure(bench.pair, scenario, bench.plan, bench=bench).facts
    with bench.edited(spec) as subject:
        edited = dict(subject.digests)
    places = chosen(visits(bench, spec), spec)
    for place, visit in places:
        assert traced(bench, spec, Interruption(place, visit))
        assert sound(bench, before), f"edited and resident after visit {visit} of {place}"
        bench.prove_baseline()
        assert tensor_digests(bench.baseline.model) == before
    with bench.edited(spec) as subject:
        assert subject.digests == edited != before
    files = {file for (file, _, _), _ in places}
    assert files >= set(BOOKKEEPING)
    assert len(files) > 3
    # Some were undone, some dropped, and only a drop is followed by a load.
    assert 1 < bench.adapter.loads < len(places)  # type: ignore[attr-defined]
    again = measure(bench.pair, scenario, bench.plan, bench=bench).facts
    assert again.digest == facts.digest


def test_what_an_edit_wrote_before_it_broke_off_is_undone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident_model = bench.baseline.model
    before = tensor_digests(resident_model)

    def breaks(journal: EditJournal) -> None:
        journal.write(GATE, torch.zeros(48, 32))
        assert tensor_digests(journal.model) != before
        raise MemoryError

    monkeypatch.setitem(registry.EDITS, "sign_flip", breaks)
    with pytest.raises(MemoryError), bench.edited(EditSpec("sign_flip")):
        pytest.fail("the edit broke off")
    assert bench.baseline.model is resident_model
    assert bench.unchanged()
    bench.prove_baseline()


def test_a_save_that_breaks_off_before_the_write_writes_nothing(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("gpt2")
    before = tensor_digests(model)
    written = EditJournal(model, before)
    clone, calls = torch.Tensor.clone, []

    def out_of_memory(tensor: torch.Tensor, **how: Any) -> torch.Tensor:
        calls.append(tensor)
        if len(calls) == 1:
            raise MemoryError
        return clone(tensor, **how)

    monkeypatch.setattr(torch.Tensor, "clone", out_of_memory)
    value = torch.zeros_like(model.lm_head.weight)
    with pytest.raises(MemoryError):
        written.write("lm_head.weight", value)
    assert tensor_digests(model) == before
    # The same storage under its other name is still to be saved.
    written.write("transformer.wte.weight", value)
    assert tensor_digests(model) != before
    written.undo()
    assert tensor_digests(model) == before


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(EditError) as caught:
        call()
    return caught.value.code


@pytest.mark.parametrize("name", ["noop", "sign_flip"])
def test_while_an_edit_is_open_the_resident_is_no_baseline(name: str, bench: Bench) -> None:
    with bench.edited(EditSpec(name)):
        assert not bench.unchanged()
        # Nothing was measured before: its numbers would be the edit's.
        assert refusal(lambda: bench.baseline_evidence(0)) == "EDIT_OPEN"
        assert refusal(lambda: bench.by_head(0)) == "EDIT_OPEN"
        for inner in ("noop", "missing_tensors"):
            assert refusal(lambda: bench.applied(EditSpec(inner)).__enter__()) == "EDIT_OPEN"  # noqa: B023
    assert bench.unchanged()
    bench.baseline_evidence(0)


def test_an_edit_left_open_is_found_and_touches_no_later_resident(bench: Bench) -> None:
    forgotten = bench.edited(EditSpec("sign_flip"))
    old = forgotten.__enter__().loaded.model
    assert refusal(bench.prove_baseline) == "BASELINE_CHANGED"
    before = tensor_digests(bench.baseline.model)
    assert tensor_digests(old) != before
    with bench.edited(EditSpec("zero_layer")):
        forgotten.__exit__(None, None, None)
        assert tensor_digests(old) == before
        # The edit of the model that came after is still open.
        assert refusal(bench.unedited) == "EDIT_OPEN"
    assert bench.baseline.model is not old
    assert bench.unchanged()


@pytest.mark.parametrize("reads", ["read_structure", "function_state"])
def test_a_load_that_is_interrupted_leaves_no_resident_without_identity(
    reads: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(resident, reads, interrupted)
        with pytest.raises(KeyboardInterrupt):
            _ = bench.baseline
    assert bench._loaded is None
    assert bench.digests == tensor_digests(bench.baseline.model)
    assert bench.structure.n_parameters > 0
    assert bench.adapter.loads == 2  # type: ignore[attr-defined]
