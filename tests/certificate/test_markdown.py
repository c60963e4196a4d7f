"""The Markdown page shows what was measured, and no text breaks out of its place."""

from __future__ import annotations

import json

from pytest_invarlock.certificate import render_certificate_html, render_certificate_markdown
from pytest_invarlock.evidence.strict_json import pretty

from .test_build import accuracy, certificate, record


def test_the_page_shows_what_was_measured_beside_the_ratio() -> None:
    page = render_certificate_markdown(certificate(record()))
    for heading in ("Tail", "Drift", "Divergence", "Noise floor", "Pairing"):
        assert f"## {heading}" in page
    for line in (
        "| ppl_causal, windows by convention document | |",
        "| kl nats mean | 0.0012 |",
        "| windows that occur twice | 0.2500 |",
        "| second batch size, nats per token | 1e-07 |",
        "| windows above the threshold | 0 |",
        "| documents: rule | monitor |",
        "| shown to lie within the band | yes |",
    ):
        assert line in page
    assert "delta p mean" not in page


def test_the_page_says_why_a_divergence_is_missing() -> None:
    of = record(divergence={"not_evaluated": "the vocabularies differ in size"})
    page = render_certificate_markdown(certificate(of))
    assert "Not evaluated: the vocabularies differ in size." in page


def test_the_page_of_accuracy_is_in_percentage_points() -> None:
    page = render_certificate_markdown(certificate(accuracy(60, 5)))
    assert "| drop, percentage points | 13.7500 |" in page
    assert "| flips, harmful | 60 |" in page
    assert "subject ÷ baseline" not in page


def test_no_text_breaks_out_of_its_cell_or_makes_a_tag() -> None:
    made = certificate(record())
    made["decision"]["checks"][0]["text"] = "|ln rms| at\nmost <script>"
    made["convention"] = "document\n<script>"
    made["auto"]["profile"] = "dev\n\n# PASS <script>"
    page = render_certificate_markdown(made)
    assert r"\|ln rms\| at most &lt;script>" in page
    assert "<script>" not in page
    assert "\n# PASS" not in page


def test_the_page_shows_floors_and_what_changed() -> None:
    page = render_certificate_markdown(certificate(record()))
    assert "| tensors changed | 4 |" in page
    assert "- floors: documents 20, effective documents 10.0000, guard windows 8" in page
    assert "Confidence High" in page


def test_a_page_is_the_same_of_a_certificate_that_was_read_from_its_file() -> None:
    of = record(0.3)
    made = certificate(of)
    read = json.loads(pretty(made))
    assert render_certificate_markdown(read) == render_certificate_markdown(made)
    assert render_certificate_html(read, of.facts) == render_certificate_html(made, of.facts)
