"""A sweep as figures, table and plot, for checks and guards that this version does not know."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from jsonschema.validators import Draft202012Validator

from pytest_invarlock.decision import CheckDecision, Decision, Outcome
from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.strict_json import pretty
from pytest_invarlock.policy.resources import schema
from pytest_invarlock.reporting import dose_response_files
from pytest_invarlock.reporting.dose_response import Curve, Dose, DoseResponse, DoseRun
from pytest_invarlock.reporting.dose_response_plot import SHAPES, png, svg
from pytest_invarlock.reporting.dose_response_table import headings, markdown, rows, terminal_lines

RATIOS = {"limit": 1.1, "n_documents": 24, "kl_mean_nats": 0.5, "flips": 7}


def check(name: str, outcome: Outcome = Outcome.PASS, **numbers) -> CheckDecision:
    return CheckDecision(name, outcome, "because", "a sentence", numbers)


def metric(ratio: float | None, outcome: Outcome = Outcome.PASS, **others) -> CheckDecision:
    upper = None if ratio is None or ratio > 1e6 else ratio * 1.05
    lower = None if ratio is None else ratio * 0.95
    return check(
        "primary_metric", outcome,
        **{"ratio": ratio, "ratio_lower": lower, "ratio_upper": upper, **RATIOS, **others},
    )  # fmt: skip


def run(outcome: Outcome, *checks: CheckDecision, draw: int = 0, error: str | None = None):
    fired = tuple(c.check for c in checks if c.outcome is Outcome.FAIL)
    decision = Decision(
        "m", "s", draw, "stress", "informational", checks, fired, outcome,
        outcome is not Outcome.ERROR, "text",
    )  # fmt: skip
    return DoseRun(draw, decision, error)


def dose(value, *runs: DoseRun, missing: tuple[int, ...] = ()) -> Dose:
    edit = {"name": "quant_rtn", "parameters": {"bitwidth": value}}
    return Dose(value, f"rtn.bitwidth={value}", edit, runs, missing)


def response(*doses: Dose, others: tuple[tuple[Dose, ...], ...] = ()) -> DoseResponse:
    curves = (doses, *others)
    return DoseResponse(
        "run", "rtn", "bitwidth", "rtn.bitwidth",
        tuple(Curve(f"model-{i}", doses) for i, doses in enumerate(curves)),
    )  # fmt: skip


def guard(value: float | None, outcome: Outcome = Outcome.PASS) -> CheckDecision:
    return check("spectral", outcome, limit=0.2, n_modules=12, n_beyond=value, worst_log=value)


FULL = response(
    dose(8, run(Outcome.PASS, metric(1.01), guard(0.1))),
    dose(4, run(Outcome.INCONCLUSIVE, metric(1.08, Outcome.INCONCLUSIVE), guard(0.3, Outcome.WARN))),
    dose(3, run(Outcome.FAIL, metric(1.4, Outcome.FAIL), guard(0.9, Outcome.FAIL))),
    dose(2, run(Outcome.ERROR, check("primary_metric", Outcome.ERROR), error="EDIT_NO_TARGET")),
    dose(5, missing=(0,)),
)  # fmt: skip


def plotted(drawn: bytes) -> str:
    return " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", drawn.decode()))


def test_the_document_fits_its_schema_and_says_everything() -> None:
    document = FULL.document()
    Draft202012Validator(schema("sweep")).validate(document)
    pretty(document)
    (curve,) = document["curves"]
    assert [d["value"] for d in curve["doses"]] == [8, 4, 3, 2, 5]
    third = curve["doses"][2]["runs"][0]
    assert third["outcome"] == "FAIL"
    assert third["fired"] == ["primary_metric", "spectral"]
    assert (third["ratio"], third["limit"], third["flips"]) == (1.4, 1.1, 7)
    assert third["checks"]["spectral"] == {
        "outcome": "FAIL",
        "reason": "because",
        "numbers": {"limit": 0.2, "n_modules": 12, "n_beyond": 0.9, "worst_log": 0.9},
    }
    broken = curve["doses"][3]["runs"][0]
    assert (broken["outcome"], broken["error"], broken["ratio"]) == (
        "ERROR",
        "EDIT_NO_TARGET",
        None,
    )
    assert document["missing"] == [{"model": "model-0", "scenario": "rtn.bitwidth=5", "draw": 0}]


def test_accuracy_is_told_in_percentage_points() -> None:
    drop = {"drop_pp": 1.5, "drop_lower_pp": 0.5, "drop_upper_pp": 2.5, "limit_pp": 3.0}
    found = response(dose(4, run(Outcome.PASS, check("primary_metric", **drop))))
    document = found.document()
    Draft202012Validator(schema("sweep")).validate(document)
    assert document["quantity"] == "drop_pp"
    assert "drop in accuracy (pp)" in plotted(svg(found))
    assert rows(found, found.curves[0])[0][3:7] == ("1.5", "0.5", "2.5", "3")


def test_a_guards_panel_is_its_first_statistic_that_differs_between_doses() -> None:
    assert FULL.leading() == [("spectral", "worst_log")]
    same = response(*(dose(b, run(Outcome.PASS, metric(1.0), guard(0.1))) for b in (8, 4)))
    assert same.leading() == []
    counts = response(
        *(dose(b, run(Outcome.PASS, metric(1.0), check("rmt", n_outliers=b))) for b in (8, 4))
    )
    assert counts.leading() == [("rmt", "n_outliers")]


def test_models_that_differ_are_no_dose_that_does() -> None:
    def of_model(tensors: int) -> tuple[Dose, ...]:
        return tuple(
            dose(b, run(Outcome.PASS, metric(1.0), check("invariants", n_tensors=tensors)))
            for b in (8, 4)
        )

    assert response(*of_model(39), others=(of_model(53),)).leading() == []


def test_the_error_of_a_check_has_a_code_too() -> None:
    broken = run(Outcome.ERROR, check("primary_metric", Outcome.ERROR))
    assert broken.word == "ERROR BECAUSE"


def test_the_table_has_a_row_a_dose_with_what_it_came_to() -> None:
    table = rows(FULL, FULL.curves[0])
    assert headings(FULL)[-1] == "spectral worst_log"
    assert [row[:2] for row in table] == [
        ("8", "PASS"),
        ("4", "INCONCLUSIVE"),
        ("3", "FAIL"),
        ("2", "ERROR EDIT_NO_TARGET"),
        ("5", "not measured"),
    ]
    assert table[2][2:] == (
        "primary_metric, spectral", "1.4000", "1.3300", "1.4700", "1.1", "24", "0.5", "7", "0.9",
    )  # fmt: skip
    assert all(len(row) == len(headings(FULL)) for row in table)
    text = markdown(FULL)
    assert "| 3 | FAIL | primary_metric, spectral | 1.4000 |" in text
    assert "- not measured: model-0 rtn.bitwidth=5 run 0" in text
    lines = terminal_lines(FULL)
    assert "not measured: model-0 rtn.bitwidth=5 run 0" in lines
    assert len({len(line) for line in lines[1:7]}) == 1  # columns are aligned


def test_every_draw_is_a_row_and_none_is_hidden() -> None:
    found = response(
        dose(
            8, run(Outcome.PASS, metric(1.0)), run(Outcome.FAIL, metric(1.5), draw=2), missing=(1,)
        )
    )
    assert [row[:2] for row in rows(found, found.curves[0])] == [
        ("8 run 0", "PASS"),
        ("8 run 1", "not measured"),
        ("8 run 2", "FAIL"),
    ]
    assert "PASS / FAIL / not measured" in plotted(svg(found))


def test_a_cell_of_markdown_breaks_no_row() -> None:
    found = response(dose("a|b", run(Outcome.PASS, metric(1.0))))
    assert "| a\\|b | PASS |" in markdown(found)


def test_the_plot_tells_every_outcome_in_words_and_by_shape() -> None:
    text = plotted(svg(FULL))
    for word in ("PASS", "INCONCLUSIVE", "FAIL", "ERROR EDIT_NO_TARGET", "not measured"):
        assert word in text
    assert "spectral" in text
    assert "worst_log" in text
    assert "limit" in text
    assert set(SHAPES) == set(Outcome)
    assert len(set(SHAPES.values())) == len(SHAPES)


def test_the_plot_of_one_sweep_is_the_same_to_the_byte_and_has_no_date() -> None:
    drawn = svg(FULL)
    assert drawn == svg(FULL)
    assert b"<dc:date>" not in drawn
    assert b"Matplotlib v" not in drawn
    other = response(*FULL.curves[0].doses[:2])
    assert drawn != svg(other)


def test_the_plot_leaves_no_trace_in_the_users_settings() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    with mpl.rc_context({"font.size": 20.0, "lines.linewidth": 9.0}):
        assert svg(FULL) == svg(FULL)
        styled = svg(FULL)
        assert mpl.rcParams["font.size"] == 20.0
    assert styled == svg(FULL)
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    "values", [("e4m3", "e5m2"), (True, False), (3, "auto")], ids=["words", "flags", "mixed"]
)
def test_doses_that_are_no_amounts_stand_in_the_order_given(values) -> None:
    found = response(*(dose(v, run(Outcome.PASS, metric(1.0))) for v in values))
    assert found.document()["axis"] == "categorical"
    Draft202012Validator(schema("sweep")).validate(found.document())
    text = plotted(svg(found))
    names = [str(v).lower() if isinstance(v, bool) else str(v) for v in values]
    assert text.index(names[0]) < text.index(names[1])
    assert FULL.document()["axis"] == "numeric"


def test_a_sweep_without_a_single_number_is_plotted() -> None:
    found = response(
        dose(8, run(Outcome.FAIL, check("primary_metric", Outcome.FAIL))),
        dose(4, missing=(0,)),
        dose(2, run(Outcome.ERROR, error="OOM")),
    )
    text = plotted(svg(found))
    assert "FAIL, no number" in text
    assert "ERROR OOM" in text


def test_names_with_dollars_are_no_formulas_and_many_models_have_a_curve_each() -> None:
    doses = tuple(dose(b, run(Outcome.PASS, metric(1e7 if b == 2 else 1.0))) for b in range(2, 10))
    found = response(*doses, others=(doses,) * 7)
    curves = tuple(Curve(f"a$b_{i}$", curve.doses) for i, curve in enumerate(found.curves))
    named = DoseResponse("run", "rtn", "bitwidth", "rtn.bitwidth", curves)
    text = plotted(svg(named))
    assert all(f"a$b_{i}$" in text for i in range(8))
    assert png(named).startswith(b"\x89PNG")


def test_a_folder_that_cannot_be_written_is_a_typed_error(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(dose_response_files, "dose_responses", lambda summary: (FULL,))
    summary = SimpleNamespace(run=SimpleNamespace(path=tmp_path, run_id="small-now"))
    dose_response_files.write_sweeps(summary)
    assert sorted(p.name for p in (tmp_path / "sweeps").iterdir()) == [
        "rtn.bitwidth.json", "rtn.bitwidth.md", "rtn.bitwidth.svg",
    ]  # fmt: skip
    (tmp_path / "file").write_text("")
    summary.run.path = tmp_path / "file"
    with pytest.raises(EvidenceError) as raised:
        dose_response_files.write_sweeps(summary)
    assert raised.value.code == "OUT_UNWRITABLE"
    assert str(tmp_path) not in str(raised.value)
