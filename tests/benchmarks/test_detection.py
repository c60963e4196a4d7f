"""The page of what suite `full` detects: what was not measured, or missed, is never as declared."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_invarlock.decision import CheckDecision, Decision, Outcome
from pytest_invarlock.plan import PlannedScenario
from pytest_invarlock.policy.decision_policy import Expectation, Strictness

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
EXPECTED = {
    "clean": Expectation("clean", Strictness.MUST_PASS),
    "fault": Expectation("error", Strictness.MUST_DETECT, ("spectral", "tail")),
    "heavy": Expectation("stress", Strictness.INFORMATIONAL),
}


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("evidence_detection")


def decided(name: str, draw: int = 0, *, met: bool = True, fired: tuple[str, ...] = ()) -> Decision:
    ratio = CheckDecision("primary_metric", Outcome.PASS, "r", "t", {"ratio": 1 + draw / 100})
    expected = EXPECTED[name]
    return Decision(
        "m", name, draw, expected.category, expected.strictness.value, (ratio,), fired,
        Outcome.FAIL if fired else Outcome.PASS, met, "because",
    )  # fmt: skip


def summary(*decisions: Decision) -> Any:
    policy = SimpleNamespace(expectation=lambda model, scenario: EXPECTED[scenario])
    return SimpleNamespace(
        planned=tuple(PlannedScenario("m", name, 2 if name == "clean" else 1) for name in EXPECTED),
        decisions=decisions,
        policies={("m", name): policy for name in EXPECTED},
    )


WHOLE = (
    decided("clean"), decided("clean", 1), decided("fault", fired=("spectral",)), decided("heavy"),
)  # fmt: skip


def test_a_run_that_went_as_declared_meets_every_claim(page: Any, tmp_path: Path) -> None:
    whole = summary(*WHOLE)
    assert [met for _, _, met in page.claims(whole)] == [True] * 4
    page.write_page(whole, "PASS", "pytest", tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "| `fault` | m | must be detected | spectral, tail | FAIL | spectral | 1 | yes |" in text
    assert "| `clean` | m | must pass | – | PASS | – | 1 to 1.01 | yes |" in text
    assert "NO" not in text


@pytest.mark.parametrize(
    ("found", "broken"),
    [((*WHOLE[:2], decided("fault", met=False), WHOLE[3]), 0),
     ((*WHOLE[:2], WHOLE[3]), 0),
     ((WHOLE[0], *WHOLE[2:]), 1),
     ((WHOLE[0], decided("clean", 1, met=False), *WHOLE[2:]), 1),
     (WHOLE[:3], 2),
     ((WHOLE[0], decided("clean", 1, fired=("tail",)), *WHOLE[2:]), 3)],
)  # fmt: skip
def test_what_is_missing_missed_or_alarms_breaks_a_claim(
    page: Any, tmp_path: Path, found: tuple[Decision, ...], broken: int
) -> None:
    claims = page.claims(summary(*found))
    assert [met for _, _, met in claims] == [index != broken for index in range(4)]
    page.write_page(summary(*found), "FAIL", "pytest", tmp_path / "page.md")
    assert "**NOT met**" in (tmp_path / "page.md").read_text()


def test_nothing_measured_meets_nothing(page: Any) -> None:
    assert not any(met for _, _, met in page.claims(summary()))
