"""What a record is taken over for: an equal request, a whole record, and nothing less."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.core import request as request_module
from pytest_invarlock.core.engine import error_record, measure
from pytest_invarlock.earlier_runs import continued, named_run, newest_run, runs_in, taken_over
from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import (
    DataSource,
    EditSpec,
    ForeignGuard,
    MeasurementPlan,
    Pair,
    Scenario,
    WindowSelection,
)
from pytest_invarlock.resumption import Resumption, resumed_line
from pytest_invarlock.run_directory import RunDirectory, open_run_directory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PRUNE = Scenario("prune", edit=EditSpec("magnitude_prune", {"sparsity": 0.5}), kind="prune")
EARLIER = "small-20260101T000000Z"


def worker(reference: str | None) -> Resumption:
    return Resumption(reference, "main", 1, allow_network=False)


def opened(out: Path, session: str, reference: str | None, stamp: str) -> RunDirectory:
    resumption = worker(reference)
    return open_run_directory(
        out, "small", stamp, session, "p|/a/file",
        lambda made: resumption.begin(made, "small", "p", session),
    )  # fmt: skip


class Measured:
    """An earlier run of two scenarios, and what a session after it takes over."""

    def __init__(self, out: Path, baseline: Path, subject: Path, texts: Path) -> None:
        self.out = out
        self.pair = Pair("m", str(baseline))
        self.subject = Scenario("copy", subject=str(subject))
        self.plan = MeasurementPlan(
            source=DataSource("local_jsonl", (str(texts),)),
            windows=WindowSelection(48, 48, preview_windows=10, final_windows=12),
            guards=("invariants",), device="cpu", dtype="float32", threads=1, batch_tokens=512,
        )  # fmt: skip

    @property
    def earlier(self) -> RunDirectory:
        return RunDirectory(self.out / EARLIER)

    def measure(self) -> None:
        run, resumption = opened(self.out, "one", None, "20260101T000000Z"), worker(None)
        for scenario in (self.subject, PRUNE):
            asked = resumption.asked(run, self.pair, scenario, self.plan)
            record = measure(self.pair, scenario, self.plan, salt=run.salt())
            run.write_record(record)
            resumption.keep(run, asked, self.pair, scenario, record)

    def resume(self, session: str = "two", stamp: str = "20260101T000001Z") -> RunDirectory:
        return opened(self.out, session, "newest", stamp)

    def taken(self, scenario: Scenario = PRUNE, **change: Any) -> tuple[bool, str]:
        """Whether the scenario's record is taken over, and what the log says of it."""
        run = self.resume()
        pair = change.pop("pair", self.pair)
        record = worker("newest").take_over(run, pair, scenario, replace(self.plan, **change))
        assert (record is not None) == (taken_over(run) == 1)
        log = (run.path / "logs" / "main.log").read_text().splitlines()
        return record is not None, log[-1].split(" ", 1)[1]

    def path(self, name: str) -> Path:
        return self.earlier.records / "m" / "prune" / name


@pytest.fixture(scope="module")
def once(
    tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Path], texts: Path
) -> Measured:
    out = tmp_path_factory.mktemp("earlier") / "out"
    made = Measured(out, checkpoints["llama"], checkpoints["llama"], texts)
    made.measure()
    return made


@pytest.fixture
def measured(once: Measured, tmp_path: Path, texts: Path) -> Measured:
    shutil.copytree(once.out, tmp_path / "out", symlinks=True)
    return Measured(tmp_path / "out", once.pair.baseline, str(once.subject.subject), texts)  # type: ignore[arg-type]


def test_an_equal_request_is_taken_over_whole_with_the_salt(measured: Measured) -> None:
    run = measured.resume()
    for scenario in (measured.subject, PRUNE):
        record = worker("newest").take_over(run, measured.pair, scenario, measured.plan)
        assert record is not None
        for name in ("run_0.record.json", "run_0.npz"):
            place = f"records/m/{scenario.name}/{name}"
            assert (run.path / place).read_bytes() == (measured.earlier.path / place).read_bytes()
    assert run.salt() == measured.earlier.salt()
    assert resumed_line(run) == f"resumed {EARLIER}: 2 of 2 records taken over"
    # No text, path or name of a user is kept.
    kept = "".join(p.read_text() for p in run.state.rglob("*.json"))
    assert str(measured.pair.baseline) not in kept
    assert str(measured.plan.source.locations[0]) not in kept


def test_where_model_and_data_lie_is_no_part_of_a_request(
    measured: Measured, tmp_path: Path
) -> None:
    moved = shutil.copytree(measured.pair.baseline, tmp_path / "moved")
    data = shutil.copy(measured.plan.source.locations[0], tmp_path / "other.jsonl")
    source = replace(measured.plan.source, locations=(str(data),), cache_dir="elsewhere")
    assert measured.taken(pair=Pair("m", str(moved)), source=source)[0]


def changed_baseline(measured: Measured, folder: Path) -> dict[str, Any]:
    moved = shutil.copytree(measured.pair.baseline, folder / "moved")
    path = moved / "config.json"
    path.write_text(path.read_text() + "\n")
    return {"pair": Pair("m", str(moved))}


def changed_subject(measured: Measured, folder: Path) -> dict[str, Any]:
    moved = changed_baseline(measured, folder)["pair"].baseline
    return {"scenario": Scenario("copy", subject=moved)}


def changed_data(measured: Measured, folder: Path) -> dict[str, Any]:
    lines = open(measured.plan.source.locations[0]).readlines()  # noqa: SIM115, PTH123
    (folder / "fewer.jsonl").write_text("".join(lines[:-1]))
    return {"source": replace(measured.plan.source, locations=(str(folder / "fewer.jsonl"),))}


def renamed_data(measured: Measured, folder: Path) -> dict[str, Any]:
    copied = shutil.copy(measured.plan.source.locations[0], folder / "data.json")
    return {"source": replace(measured.plan.source, locations=(str(copied),))}


def planned(**change: Any) -> Callable[[Measured, Path], dict[str, Any]]:
    return lambda measured, folder: change


def windows(**change: Any) -> Callable[[Measured, Path], dict[str, Any]]:
    return lambda measured, folder: {"windows": replace(measured.plan.windows, **change)}


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (changed_baseline, "baseline.checkpoint"),
        (changed_subject, "subject.checkpoint"),
        (changed_data, "data.digest"),
        (renamed_data, "data.extensions"),
        (lambda m, _: {"source": replace(m.plan.source, text_field="body")}, "data.digest"),
        (lambda m, _: {"source": replace(m.plan.source, dedup=True)}, "data.dedup"),
        (windows(seed=1), "plan.windows"),
        (windows(final_windows=11), "plan.windows"),
        (planned(guards=("invariants", "spectral")), "plan.guards"),
        (planned(threads=2), "plan.threads"),
        (planned(dtype="float64"), "plan.dtype"),
        (planned(determinism="strict"), "plan.determinism"),
        (planned(batch_tokens=256), "plan.batch_tokens"),
        (planned(notes=("assumed",)), "plan.notes"),
        (planned(scenario=replace(PRUNE, kind="any")), "kind"),
        (
            planned(scenario=replace(PRUNE, edit=EditSpec("magnitude_prune", {"sparsity": 0.4}))),
            "subject.edit",
        ),
    ],
)
def test_whatever_changes_a_fact_is_measured_again_and_told(
    change: Any, differs: str, measured: Measured, tmp_path: Path
) -> None:
    taken, told = measured.taken(**change(measured, tmp_path))
    assert not taken
    assert told.startswith("not_taken_over ")
    assert differs in json.loads(told.split(" ", 1)[1])["reason"]


@pytest.mark.parametrize(
    ("name", "value", "differs"),
    [
        ("code_digest", lambda: "sha256:other", "code"),
        ("library_versions", lambda: {"torch": "0"}, "versions.torch"),
        ("device_identity", lambda device: {"device": device, "capability": "z"}, "device."),
        ("machine", lambda: {"system": "Linux", "architecture": "z"}, "machine.architecture"),
    ],
)
def test_other_code_and_another_machine_measure_again(
    name: str, value: Any, differs: str, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_module, name, value)
    taken, told = measured.taken()
    assert not taken
    assert differs in told


def test_a_variable_that_changes_products_measures_again(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    taken, told = measured.taken()
    assert not taken
    assert "environment.MKL_CBWR" in told


def test_another_packages_guard_is_part_of_a_request(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = {"code": "sha256:1"}
    monkeypatch.setattr(request_module.InstalledGuards, "identity", lambda *_: identity)
    taken, told = measured.taken(foreign_guards=(ForeignGuard("theirs"),))
    assert not taken
    assert "foreign_guards" in told


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"adapter": "theirs"}, "NOT_IDENTIFIABLE"),
        ({"pair": Pair("m", "./gone")}, "MODEL_NOT_FOUND"),
    ],
)
def test_what_cannot_be_identified_is_measured_again(
    change: Any, code: str, measured: Measured
) -> None:
    taken, told = measured.taken(**change)
    assert not taken
    assert told.startswith("not_identified ")
    assert code in told


def of_error(measured: Measured) -> None:
    record = error_record(measured.pair, PRUNE, measured.plan, "OUT_OF_MEMORY")
    measured.earlier.write_record(record)


def cut(name: str, size: int) -> Callable[[Measured], None]:
    def damage(measured: Measured) -> None:
        path = measured.path(name)
        path.write_bytes(path.read_bytes()[:size])

    return damage


def altered(measured: Measured) -> None:
    path = measured.path("run_0.record.json")
    path.write_text(path.read_text().replace('"draw": 0', '"draw": 1'))


def other_arrays(measured: Measured) -> None:
    shutil.copy(measured.earlier.records / "m" / "copy" / "run_0.npz", measured.path("run_0.npz"))


def request_of_another(measured: Measured) -> None:
    folder = measured.earlier.state / "requests" / "m"
    path = folder / "prune" / "run_0.json"
    document = json.loads(path.read_text())
    document["facts_digest"] = json.loads((folder / "copy" / "run_0.json").read_text())[
        "facts_digest"
    ]
    path.write_text(json.dumps(document))


def without_request(measured: Measured) -> None:
    (measured.earlier.state / "requests" / "m" / "prune" / "run_0.json").unlink()


def unknown_request(measured: Measured) -> None:
    (measured.earlier.state / "requests" / "m" / "prune" / "run_0.json").write_text("[]")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (of_error, "the record is of an error"),
        (cut("run_0.record.json", 100), "MALFORMED_JSON"),
        (cut("run_0.record.json", 0), "MALFORMED_JSON"),
        (cut("run_0.npz", 100), "RECORD_ARRAYS"),
        (lambda measured: measured.path("run_0.npz").unlink(), "RECORD_ARRAYS"),
        (lambda m: m.path("run_0.record.json").write_text("{}"), "RECORD_SCHEMA"),
        (altered, "RECORD_"),
        (other_arrays, "RECORD_"),
        (request_of_another, "the request is another record's"),
        (without_request, "NO_REQUEST"),
        (unknown_request, "NO_REQUEST"),
    ],
)
def test_a_record_that_is_not_whole_is_measured_again_and_told(
    damage: Callable[[Measured], None], reason: str, measured: Measured
) -> None:
    damage(measured)
    taken, told = measured.taken()
    assert not taken
    assert reason in json.loads(told.split(" ", 1)[1])["reason"]
    assert measured.taken(measured.subject)[1].startswith("taken_over ")


def test_a_resumed_run_that_was_killed_too_leaves_the_first_one_in_reach(
    measured: Measured,
) -> None:
    second = measured.resume()
    worker("newest").take_over(second, measured.pair, PRUNE, measured.plan)
    third = measured.resume("three", "20260101T000002Z")
    assert [run.run_id for run in continued(third)] == [second.run_id, EARLIER]
    for scenario in (PRUNE, measured.subject):
        assert worker("newest").take_over(third, measured.pair, scenario, measured.plan)
    kept = [json.loads(p.read_text()) for p in third.state.glob("requests/*/*/*.json")]
    assert [one["taken_from"] for one in kept] == [EARLIER, EARLIER]


def test_without_a_run_to_continue_nothing_is_taken_over(measured: Measured) -> None:
    alone = opened(measured.out, "two", None, "20260101T000001Z")
    assert worker(None).take_over(alone, measured.pair, PRUNE, measured.plan) is None
    assert alone.salt() != measured.earlier.salt()
    shutil.rmtree(measured.earlier.path)
    shutil.rmtree(alone.path)
    first = measured.resume()
    assert continued(first) == []
    assert resumed_line(first) == "resume: no earlier run to continue, all was measured"


def test_a_run_without_its_salt_is_not_continued(measured: Measured) -> None:
    (measured.earlier.state / "salt").write_text("00")
    run = measured.resume()
    assert continued(run) == []
    assert len(run.salt()) == 32


def test_the_newest_run_is_the_suites_own_and_another_sessions(measured: Measured) -> None:
    def newest(name: str = "small", prefix: str = "p", session: str = "") -> str | None:
        found = newest_run(measured.out, name, prefix, session)
        return None if found is None else found.run_id

    later = [opened(measured.out, who, None, "20260101T000001Z").run_id for who in "abcdefghijk"]
    assert later[-1] == "small-20260101T000001Z~11"
    open_run_directory(measured.out, "small-er", "20260102T000000Z", "l", "p|/a/file")
    open_run_directory(measured.out, "small", "20260102T000000Z", "m", "q|/a/file")
    half = measured.out / "small-20260103T000000Z"
    (half / "state" / "plans").mkdir(parents=True)
    assert newest() == later[-1]
    assert newest(session="k") == later[-2]
    assert newest(name="none") is None
    assert half.name not in [run.run_id for run in runs_in(measured.out)]


def test_a_named_run_is_an_id_or_a_folder_and_nothing_else(
    measured: Measured, tmp_path: Path
) -> None:
    for reference in (EARLIER, "latest", f"out/{EARLIER}", str(measured.earlier.path)):
        found = named_run(measured.out, reference, tmp_path)
        assert found.path == measured.earlier.path.resolve()
    for reference in ("small", ".", EARLIER + "/records", ""):
        with pytest.raises(ConfigError) as caught:
            named_run(measured.out, reference, tmp_path)
        assert caught.value.code == "UNKNOWN_RUN"
        assert EARLIER in caught.value.remedy
    with pytest.raises(ConfigError, match="there is none"):
        named_run(tmp_path / "nowhere", "x", tmp_path)
