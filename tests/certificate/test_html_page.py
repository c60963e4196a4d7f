"""The HTML page: nothing in it runs or loads, nothing rests on colour, every text is escaped."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from pytest_invarlock.certificate import render_certificate_html
from pytest_invarlock.certificate.explain import explain_certificate
from pytest_invarlock.certificate.heat_map import guard_maps
from pytest_invarlock.certificate.outcome_words import SHAPES
from pytest_invarlock.certificate.svg import element, tick_texts, ticks
from pytest_invarlock.certificate.what_changed import changed_families
from pytest_invarlock.records import ArmLosses, Record

from .test_build import (
    ERROR_RECORD,
    N,
    accuracy,
    certificate,
    non_finite,
    record,
    sequential,
    sparse,
)

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


class Parts(HTMLParser):
    """Tags with their attributes, and the texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def change(block: int | None, role: str, value: float, **other: Any) -> dict[str, Any]:
    name = f"model.layers.{block}.{role}.weight" if block is not None else f"model.{role}.weight"
    return {
        "name": name, "role": role, "family": "ffn", "type": "matrix", "n_parameters": 100,
        "relative_change": value, "ln_sigma": -value, "ln_stable_rank": None,
        "ln_frobenius": value / 2,
    } | other  # fmt: skip


def branch(block: int | None, kind: str, value: float | None, **other: Any) -> dict[str, Any]:
    return {
        "module": f"model.layers.{block}.{kind}", "kind": kind, "block": block, "stack": None,
        "e": value, "c": value, "l": value,
    } | other  # fmt: skip


def damaged(name: str = "model.layers.1.down.weight") -> dict[str, Any]:
    """A certificate with evidence of guards, in which ``name`` broke a limit."""
    made = certificate(record(0.3))
    changes = [change(0, "up", 0.01), change(1, "up", 0.02), change(1, "down", 0.5, name=name)]
    vector = change(None, "norm", 0.3, family="other", type="vector")
    made["guards"] |= {
        "spectral": {
            "changes": [*changes, vector],
            "covered": {
                "ffn": {"matrices": 4, "parameters": 400, "compared": 400, "changed": 3},
                "vector": {"matrices": 0, "parameters": 100, "compared": 100, "changed": 1},
            },
        },
        "rmt": {
            "branches": [branch(0, "feed_forward", 0.0), branch(1, "feed_forward", None)],
            "sites": [{"module": "q", "branch": "model.layers.0.feed_forward"}],
        },
        "variance": {"branches": [branch(None, "norm", -0.2)], "sites": []},
    }
    found = {"kind": "relative_change", "module": name, "family": "ffn", "value": 0.5,
             "threshold": 0.2}  # fmt: skip
    made["decision"]["checks"] += [
        {"check": "spectral", "outcome": "FAIL", "reason": "r", "numbers": {},
         "text": f"{name} (ffn): relative change 0.5, limit 0.2", "violations": [found]},
        {"check": "rmt", "outcome": "FAIL", "reason": "r", "numbers": {}, "text": "edges",
         "violations": [found | {"module": "q"}]},
    ]  # fmt: skip
    return made


@pytest.mark.parametrize("hostile", ["scenario", "model", "module", "text", "parameter", "run"])
def test_a_hostile_text_is_text(hostile: str) -> None:
    made = damaged(HOSTILE if hostile == "module" else "model.layers.1.down.weight")
    if hostile in ("scenario", "model"):
        made[hostile] = HOSTILE
    if hostile == "text":
        made["decision"]["text"] = made["decision"]["checks"][0]["text"] = HOSTILE
    if hostile == "parameter":
        made["edit"] = made["edit"] | {"name": HOSTILE, "parameters": {HOSTILE: HOSTILE}}
    if hostile == "run":
        made["run_id"] = HOSTILE
    parts = Parts(render_certificate_html(made, record(0.3).facts))
    assert not {"script", "img", "iframe", "object", "embed"} & {tag for tag, _ in parts.tags}
    assert not any(key.startswith("on") for _, attributes in parts.tags for key in attributes)
    assert HOSTILE in "".join(parts.texts)


def test_the_page_asks_for_nothing() -> None:
    page = render_certificate_html(damaged(), record(0.3).facts)
    assert not re.search(r"https?:|//\w|@import", page)
    loads = {
        (tag, key, value)
        for tag, attributes in Parts(page).tags
        for key, value in attributes.items()
        if key in ("src", "href", "srcset", "action", "data", "xlink:href")
    }
    assert loads == {("link", "href", "data:,")}
    assert "default-src 'none'" in page
    assert set(re.findall(r"url\(([^)]*)\)", page)) <= {"#hatch"}


CASES: dict[str, tuple[Record, str]] = {
    "pass": (record(), "PASS"),
    "fail": (record(0.3), "FAIL"),
    "undecided": (record(0.09, 0.2), "INCONCLUSIVE"),
    "error": (record(**ERROR_RECORD), "ERROR"),
    "no losses": (record(arms={}), "ERROR"),
    "not finite": (non_finite(), "FAIL"),
    "sparse": (sparse(), "INCONCLUSIVE"),
    "accuracy": (accuracy(60, 5), "FAIL"),
    "sequential": (sequential(), "PASS"),
    "destroyed": (record(705.0), "FAIL"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_verdict_comes_first_in_words(case: str) -> None:
    of, outcome = CASES[case]
    made = certificate(of)
    page = render_certificate_html(made, of.facts)
    texts = "".join(Parts(page).texts)
    expected = "as expected" if made["decision"]["expectation_met"] else "NOT as expected"
    headline = f"{SHAPES[outcome]} {outcome}, {expected}"
    assert 0 < texts.index(headline) < texts.index("Primary metric")
    for check in made["decision"]["checks"]:
        assert f"{SHAPES[check['outcome']]} {check['outcome']}" in texts
        assert check["text"].removeprefix(f"{check['outcome']}: ") in texts
    assert len(set(re.findall(r' id="([^"]*)"', page))) == page.count(' id="')
    for drawing in re.findall(r"<figure>(<svg.*?</svg>)", page, re.DOTALL):
        root = ElementTree.fromstring(drawing)
        assert root.find("title") is not None
        numbers = [v for node in root.iter() for v in node.attrib.values()]
        assert not any("nan" in value or "inf" in value for value in numbers)


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (record(**ERROR_RECORD), "No window of the final arm was measured."),
        (accuracy(60, 5), "Accuracy was measured"),
        (non_finite(), "1 more have no finite loss and are not drawn."),
    ],
)
def test_windows_that_cannot_be_drawn_are_told(of: Record, said: str) -> None:
    assert said in "".join(Parts(render_certificate_html(certificate(of), of.facts)).texts)


def test_without_a_record_the_page_says_so() -> None:
    page = render_certificate_html(certificate(record()), None)
    assert "The record is not beside this certificate." in page


def test_no_finite_window_is_drawn() -> None:
    of = record(0.3)
    of.facts.arms["final"].subject_nll[:] = math.nan
    assert "No window has a finite loss" in render_certificate_html(certificate(of), of.facts)


def test_windows_that_were_counted_as_harmed_are_squares() -> None:
    of = record()
    final = of.facts.arms["final"]
    final.subject_nll[:3] = final.baseline_nll[:3] + 1000.0
    made = certificate(of)
    assert made["tail"]["n_windows_above"] == 3
    page = render_certificate_html(made, of.facts)
    assert page.count('class="dot above"') == 3
    assert page.count('class="dot"') == N - 3


@pytest.mark.parametrize("value", [1e308, -1e308, "many", None, 0])
def test_numbers_that_nobody_measured_make_no_plot_and_no_crash(value: Any) -> None:
    of = record(0.3)
    made = certificate(of)
    made["tail"] |= {"threshold_nats": value, "n_windows_above": value}
    if not isinstance(value, str):
        made["primary_metric"] |= {"ratio": value, "display_ci": [value, value], "limit": value}
    of.facts.arms["final"].subject_nll[0] = 1e308
    explain_certificate(made)
    page = render_certificate_html(made, of.facts)
    assert "1 more have no finite loss" in page
    assert "nan" not in re.sub(r"nan_", "", "".join(re.findall(r"<svg.*?</svg>", page)))


def test_many_windows_are_thinned_out_behind_the_worst() -> None:
    n = 5000
    of = record()
    arm = ArmLosses(np.arange(n), np.full(n, 10), np.ones(n), np.linspace(1, 2, n))
    many = replace(of.facts, arms={"final": arm})
    page = render_certificate_html(certificate(of), many)
    assert 200 <= page.count('class="dot"') <= 310
    assert f">{n}</text>" in page


def test_every_cell_has_a_number_and_what_broke_a_limit_a_mark() -> None:
    made = damaged()
    page = render_certificate_html(made, None)
    heat = re.findall(r'<table class="heat">.*?</table>', page, re.DOTALL)
    cells = [cell for table in heat for cell in re.findall(r"<td[^>]*>(.*?)</td>", table)]
    assert cells
    assert all(cell.strip() for cell in cells)
    assert all(cell.startswith("▲") for cell in re.findall(r'class="broken">(.*?)<', page))
    maps = guard_maps(made)
    relative = maps["spectral"][0]
    assert list(relative.columns) == ["up", "down"]
    rows = {row: [(c.text, c.heat, c.broken) for c in cells] for row, cells in relative.rows}
    assert rows == {
        "0": [("0.01", 2, False), ("–", 0, False)],
        "1": [("0.02", 4, False), ("0.5", 100, True)],
    }
    error = maps["rmt"][0]
    assert [(row, cells[0].text, cells[0].broken) for row, cells in error.rows] == [
        ("0", "0", True),
        ("1", "none", False),
    ]
    assert maps["variance"][0].rows[0][0] == "outside blocks"


def test_stacks_with_the_same_numbers_keep_their_names() -> None:
    made = damaged()
    made["guards"]["spectral"]["changes"] = [
        change(None, "q", 0.1, name=f"{stack}.block.0.q.weight") for stack in ("encoder", "decoder")
    ]
    rows = guard_maps(made)["spectral"][0].rows
    assert [row for row, _ in rows] == ["encoder.block.0", "decoder.block.0"]


def test_what_changed_is_told_family_by_family() -> None:
    rows = {row.family: row for row in changed_families(damaged())}
    assert (rows["ffn"].n_changed, rows["ffn"].n_parameters_changed) == (3, 300)
    assert rows["ffn"].module == "model.layers.1.down.weight"
    assert rows["ffn"].largest == {
        "relative_change": 0.5, "ln_sigma": 0.5, "ln_stable_rank": None,
    }  # fmt: skip
    assert (rows["vector"].n_parameters_changed, rows["vector"].module) == (
        100, "model.norm.weight",
    )  # fmt: skip
    assert changed_families(certificate(record())) == []


def test_a_change_without_a_number_is_the_worst_of_its_family() -> None:
    made = damaged()
    made["guards"]["spectral"]["changes"].append(change(1, "gate", 0.0, relative_change=None))
    rows = {row.family: row for row in changed_families(made)}
    assert rows["ffn"].module == "model.layers.1.gate.weight"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0.98, 1.12, ["1.00", "1.05", "1.10"]),
        (-0.04, 0.05, ["-0.04", "-0.02", "0.00", "0.02", "0.04"]),
        (1.0, 1.0, ["1"]),
        (0.0, 3e8, ["0", "1e+08", "2e+08", "3e+08"]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[str]) -> None:
    found = ticks(low, high)
    assert tick_texts(found) == expected
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)


def test_an_element_escapes_texts_and_attributes() -> None:
    made = element("text", "<b>", element("tspan", "&"), class_='"x"', stroke_width=1.0)
    assert str(made) == (
        '<text class="&#34;x&#34;" stroke-width="1">&lt;b&gt;<tspan>&amp;</tspan></text>'
    )
