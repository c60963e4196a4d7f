"""What an item, the verdict testcase, the exit status and the files say, together."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from pytest_invarlock.signal_summary import SUMMARIES
from tests.plugin.conftest import HEAD


def test_a_degraded_subject_fails_the_run_and_is_sealed_all_the_same(repository):
    suite = repository.suite("noop", "pruned")
    result = repository.run(suite, "--junitxml=junit.xml")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=7, failed=2)
    result.stdout.fnmatch_lines(
        ["FAIL: ratio *, bound *, limit 1.1: *", "*requirement clean_all_pass: 1 of 2*"]
    )
    verdict = repository.verdict()
    assert (verdict["verdict"], verdict["status"]) == ("FAIL", "complete")
    assert (repository.latest / "evidence_pack" / "manifest.json").is_file()
    cases = {
        f"{case.get('classname')}.{case.get('name')}": case
        for case in ElementTree.parse(repository.path / "junit.xml").iter("testcase")
    }
    assert (
        cases["small.invarlock.yaml.builtin:llama.pruned.primary_metric"].find("failure")
        is not None
    )
    assert cases["small.invarlock.yaml.verdict"].find("failure") is not None
    assert cases["small.invarlock.yaml.builtin:llama.noop.primary_metric"].find("failure") is None
    assert len(cases) == 9


def test_a_check_that_only_monitors_warns_in_every_place_and_passes(repository):
    result = repository.run(repository.suite("pruned"), "--junitxml=junit.xml", "-v")
    warning = "WARN tail: * of 10 windows above 0.693 nats; the rule only monitors here"
    result.stdout.fnmatch_lines(["*::pruned::tail PASSED*", f"*PytestWarning: {warning}"])
    report = repository.latest / "reports/builtin-llama/pruned/run_0/evaluation.report.json"
    decision = json.loads(report.read_text())["decision"]
    outcomes = {check["check"]: check["outcome"] for check in decision["checks"]}
    assert outcomes == {
        "invariants": "PASS", "primary_metric": "FAIL", "drift": "PASS", "tail": "WARN",
    }  # fmt: skip
    case = next(
        case
        for case in ElementTree.parse(repository.path / "junit.xml").iter("testcase")
        if case.get("name") == "tail"
    )
    properties = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert properties["invarlock.verdict"] == "WARN"
    assert case.find("failure") is None


def test_a_clean_run_passes_everywhere(repository):
    result = repository.run(
        repository.suite("noop", "rtn", "explosion"), "--junitxml=junit.xml", "-v"
    )
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=10)
    assert repository.verdict()["verdict"] == "PASS"
    result.stdout.fnmatch_lines(["*::builtin:llama::explosion::detected PASSED*"])
    suite = ElementTree.parse(repository.path / "junit.xml").getroot().find("testsuite")
    properties = {p.get("name"): p.get("value") for p in suite.find("properties")}
    assert properties["invarlock.verdict"] == "PASS"
    assert properties["invarlock.pack_digest"].startswith("sha256:")
    assert properties["invarlock.signer"].startswith("sha256:")
    case = next(c for c in suite.iter("testcase") if c.get("name") == "primary_metric")
    names = {p.get("name") for p in case.find("properties")}
    assert {
        "invarlock.verdict", "invarlock.ratio", "invarlock.ratio_upper", "invarlock.limit",
        "invarlock.n_windows", "invarlock.n_documents", "invarlock.tier", "invarlock.profile",
        "invarlock.plan_digest", "invarlock.policy_digest", "invarlock.subject_digest",
        "invarlock.baseline_digest", "invarlock.certificate",
    } <= names  # fmt: skip


def test_an_undetected_fault_fails_and_says_what_it_was(repository):
    result = repository.run(repository.suite("missed"))
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["NOT DETECTED: primary_metric PASS: ratio *"])
    assert repository.verdict()["verdict"] == "FAIL"


def test_an_informational_item_passes_and_their_least_share_breaks_the_verdict(repository):
    head = HEAD.replace("scenarios:", "minimum_signal_fraction: {stress: 0.5}\nscenarios:")
    result = repository.run(repository.suite("watched", head=head), "--junitxml=junit.xml")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1)
    text = (repository.path / "junit.xml").read_text()
    assert 'name="invarlock.signal" value="none"' in text
    cases = {case.get("name"): case for case in ElementTree.fromstring(text).iter("testcase")}
    assert cases["signal"].find("failure") is None
    rule = "informational_stress_min_signal_fraction"
    assert rule in cases["verdict"].find("failure").text
    verdict = repository.verdict()
    broken = [r["requirement"] for r in verdict["requirements"] if not r["passed"]]
    assert (verdict["verdict"], broken) == ("FAIL", [rule])
    result.stdout.fnmatch_lines(
        ["informational stress: 0 of 1 show a confirmed signal (0), at least 0.5 demanded"]
    )
    for name in ("final_verdict.txt", "summary.md"):
        assert "0 of 1 show a confirmed signal" in (repository.latest / name).read_text()
    for name in SUMMARIES:
        packed = repository.latest / "evidence_pack" / "results" / name
        assert packed.read_bytes() == (repository.latest / name).read_bytes()
    timing = json.loads((repository.latest / "timing_summary.json").read_text())
    assert [entry["scenario"] for entry in timing["scenarios"]] == ["watched"]
    assert timing["seconds"] > 0
    assert not list((repository.latest / "evidence_pack").rglob("timing_summary.json"))


def test_an_edit_that_changes_nothing_is_an_error_and_the_verdict_says_so(repository):
    result = repository.run(repository.suite("unchanged"))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=5)
    result.stdout.fnmatch_lines(
        [
            "ERROR: magnitude_prune changed nothing (*",
            *["ERROR: the measurement failed, see *::invariants*"] * 3,
        ]
    )
    verdict = repository.verdict()
    assert verdict["verdict"] == "FAIL"
    assert verdict["decisions"][0]["outcome"] == "ERROR"


def test_too_little_data_is_inconclusive_and_fails(repository):
    head = (
        "name: small\nmodels: ['builtin:llama']\ntier: text-only.yaml\nprofile: dev\nscenarios:\n"
        .replace("scenarios", "dataset: {provider: pydoc, seq_len: 48, preview_n: 10, final_n: 10}\n"
                 "floors: {documents: 60}\nrun: {threads: 1}\nscenarios")
    )  # fmt: skip
    result = repository.run(repository.suite("rtn", head=head))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["INCONCLUSIVE: 10 documents, 60 are needed*"])
    assert repository.verdict()["verdict"] == "INCONCLUSIVE"


def test_on_inconclusive_xfail_softens_items_and_verdict_but_not_the_file(repository):
    head = (
        "name: small\nmodels: ['builtin:llama']\ntier: text-only.yaml\nprofile: dev\n"
        "dataset: {provider: pydoc, seq_len: 48, preview_n: 10, final_n: 10}\n"
        "floors: {documents: 60}\nrun: {threads: 1}\nscenarios:\n"
    )
    suite = repository.suite("rtn", head=head)
    result = repository.run(suite, "--invarlock-on-inconclusive=xfail")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=3, xfailed=2)
    assert repository.verdict()["verdict"] == "INCONCLUSIVE"


def test_the_verdict_testcase_never_lingers_in_the_last_failed_cache(repository):
    suite = repository.suite("noop", "pruned")
    repository.run(suite)
    cached = json.loads((repository.path / ".pytest_cache/v/cache/lastfailed").read_text())
    assert list(cached) == [f"{suite}::builtin:llama::pruned::primary_metric"]


def test_repeats_judge_every_draw(repository):
    result = repository.run(repository.suite("rtn"), "--invarlock-repeats=2")
    result.assert_outcomes(passed=5)
    verdict = repository.verdict()
    assert [entry["draw"] for entry in verdict["decisions"]] == [0, 1]
    assert verdict["decisions"][0]["facts_digest"] != verdict["decisions"][1]["facts_digest"]


def test_no_pack_no_page_and_unsigned_are_followed(repository):
    suite = repository.suite("noop")
    result = repository.run(suite, "--invarlock-no-pack")
    result.stdout.fnmatch_lines(["no evidence pack was asked for"])
    assert not (repository.latest / "evidence_pack").exists()
    assert len(list(repository.latest.rglob("report.html"))) == 1
    result = repository.run(suite, "--invarlock-signing-key=none", "--invarlock-no-html")
    result.stdout.fnmatch_lines(["UNSIGNED: anyone could have written this pack"])
    assert not (repository.latest / "evidence_pack" / "manifest.signature.json").exists()
    assert not list(repository.latest.rglob("report.html"))
    for name in ("summary.md", "evidence_pack/reports/builtin-llama/noop/run_0/report.md"):
        assert "**UNSIGNED**" in (repository.latest / name).read_text(), name
