"""Revisions: written when the Hub was asked, required when it cannot be, refused when closed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pytest_invarlock.preflight.hub import HubState, HubUnreachable
from pytest_invarlock.preflight.pinning import Pinning, gathered
from pytest_invarlock.preflight.revisions import Pins, newest_revisions

from .conftest import COMMIT, settings

OTHER = "f" * 40


@pytest.fixture
def pinned(suite_of: Any, tmp_path: Path) -> Any:
    """Pins the models of a suite under settings."""

    def pin(*models: str, profile: str = "dev", provider: str = "pydoc", **made: str) -> Pinning:
        suite = suite_of(*models, profile=profile, provider=provider, **made)
        return gathered([suite], settings(**made), tmp_path / "out", tmp_path, may_ask=True)

    return pin


def codes(found: Pinning) -> list[str]:
    return [error.code for error in found.problems]


def revisions_file(path: Path, **revisions: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    models = {name: {"revision": revision} for name, revision in revisions.items()}
    path.write_text(json.dumps({"models": models}))
    return path


@pytest.mark.parametrize("profile", ["ci_cpu", "ci", "release"])
def test_without_a_network_an_unpinned_model_is_refused(
    profile: str, pinned: Any, hub_cache: Any
) -> None:
    hub_cache("org/tiny")
    found = pinned("org/tiny", profile=profile)
    assert codes(found) == ["REVISION_UNPINNED"]
    assert "org/tiny: nothing pins a revision" in str(found.problems[0])
    assert "--invarlock-revisions=FILE" in found.problems[0].remedy


def test_in_dev_the_cached_commit_is_measured_and_noted(pinned: Any, hub_cache: Any) -> None:
    hub_cache("org/tiny")
    found = pinned("hf:org/tiny")
    assert not found.problems
    assert found.models == {"hf:org/tiny": f"hf:org/tiny@{COMMIT}"}
    assert found.notes == [f"org/tiny: no revision is pinned; the cache's {COMMIT} is measured"]
    # It was no pin, and must not become one for later runs.
    assert found.pins().document is None


def test_a_pinned_revision_that_is_not_cached_is_one_clear_error(
    pinned: Any, hub_cache: Any, tmp_path: Path
) -> None:
    hub_cache("org/tiny")
    for reference, made in (
        (f"org/tiny@{OTHER}", {}),
        (
            "org/tiny",
            {"revisions": str(revisions_file(tmp_path / "r.json", **{"org/tiny": OTHER}))},
        ),
    ):
        found = pinned(reference, **made)
        assert codes(found) == ["REVISION_NOT_CACHED"]
        text = str(found.problems[0])
        assert f"org/tiny{reference[8:]}: revision {OTHER}" in text
        assert f"not in the Hub cache {tmp_path / 'hub'}" in text
        assert f"hf download org/tiny --revision {OTHER}" in found.problems[0].remedy


@pytest.mark.parametrize("reference", [f"org/tiny@{COMMIT}", "org/tiny@v1"])
def test_an_explicit_revision_needs_no_file(reference: str, pinned: Any, hub_cache: Any) -> None:
    hub_cache("org/tiny", ref="v1")
    found = pinned(reference, profile="ci")
    assert not found.problems
    assert found.models == {reference: f"org/tiny@{COMMIT}"}


def test_a_file_pins_and_is_carried_on(pinned: Any, hub_cache: Any, tmp_path: Path) -> None:
    hub_cache("org/tiny")
    revisions_file(tmp_path / "r.json", **{"org/tiny": COMMIT})
    found = pinned("org/tiny", profile="ci", revisions="r.json")
    assert not found.problems
    found.pins().write(tmp_path, "small")
    written = json.loads((tmp_path / "model_revisions.json").read_text())
    assert written["models"] == {"org/tiny": {"revision": COMMIT}}
    assert (written["suite"], set(written)) == (
        "small", {"generated_at", "suite", "models", "datasets"},
    )  # fmt: skip


def test_the_newest_earlier_run_of_the_suite_pins(
    pinned: Any, hub_cache: Any, tmp_path: Path
) -> None:
    hub_cache("org/tiny")
    out = tmp_path / "out"
    for name, revision in (
        ("small-20260101T000000Z", OTHER), ("small-20260102T000000Z", OTHER),
        ("small-20260102T000000Z~2", COMMIT), ("other-20260103T000000Z", OTHER),
    ):  # fmt: skip
        revisions_file(out / name / "state" / "model_revisions.json", **{"org/tiny": revision})
    (out / "latest").symlink_to("other-20260103T000000Z")
    found = pinned("org/tiny", profile="ci")
    assert (codes(found), found.models) == ([], {"org/tiny": f"org/tiny@{COMMIT}"})
    other = pinned("org/else", profile="ci").problems[0]
    assert "small-20260102T000000Z~2/state/model_revisions.json" in str(other)
    assert newest_revisions(out, "absent") is None


@pytest.mark.parametrize("model", ["builtin:llama", "./checkpoint"])
def test_shipped_and_local_models_need_none(model: str, pinned: Any) -> None:
    found = pinned(model, profile="ci")
    assert (found.problems, found.models, found.notes) == ([], {}, [])


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "REVISIONS_MISSING"), ("{", "REVISIONS_FILE"), ("[]", "REVISIONS_FILE"),
        ('{"models": {"a/b": {}}}', "REVISIONS_FILE"), ('{"models": {"a/b": 5}}', "REVISIONS_FILE"),
        ('{"models": {"a/b": {"revision": ""}}}', "REVISIONS_FILE"),
    ],
)  # fmt: skip
def test_a_file_that_is_none(content: str | None, code: str, pinned: Any, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "r.json").write_text(content)
    assert codes(pinned("org/tiny", revisions="r.json")) == [code]


def test_with_the_network_commits_are_resolved_and_written(
    pinned: Any, answers: Any, hub_cache: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    answers["org/tiny"] = HubState(COMMIT, weights_bytes=500)
    answers["Salesforce/wikitext"] = HubState(OTHER)
    found = pinned("org/tiny", "org/tiny@v1", provider="wikitext2", profile="ci", allow_network="1")
    assert not found.problems
    assert answers["asked"] == [
        ("org/tiny", None, "model"), ("org/tiny", "v1", "model"),
        ("Salesforce/wikitext", None, "dataset"),
    ]  # fmt: skip
    assert set(found.models.values()) == {f"org/tiny@{COMMIT}"}
    assert found.fetched_bytes == {"org/tiny": 500, "org/tiny@v1": 500}
    document = found.pins().document
    assert document is not None
    entry = document["models"]["org/tiny"]
    assert set(document["models"]) == {"org/tiny", "org/tiny@v1"}
    assert (entry["revision"], entry["gated"], entry["private"]) == (COMMIT, False, False)
    assert entry["resolved_at"].endswith("+00:00")
    assert document["datasets"]["Salesforce/wikitext"]["revision"] == OTHER
    # Looking into the cache must not take the network from the workers.
    assert "HF_HUB_OFFLINE" not in os.environ


def test_with_the_network_a_given_file_says_at_which_revision(
    pinned: Any, answers: Any, hub_cache: Any, tmp_path: Path
) -> None:
    answers["org/tiny"] = HubState(COMMIT)
    revisions_file(tmp_path / "r.json", **{"org/tiny": COMMIT})
    assert not pinned("org/tiny", allow_network="1", revisions="r.json").problems
    assert answers["asked"] == [("org/tiny", COMMIT, "model")]
    # One that is not there yet keeps nobody from asking.
    assert not pinned("org/tiny", allow_network="1", revisions="none.json").problems


@pytest.fixture
def earlier_run(tmp_path: Path) -> Any:
    """Makes the folder of a run of the suite, with the revisions that it measured."""

    def make(name: str, revision: str | None = COMMIT) -> None:
        run = tmp_path / "out" / name
        (run / "state" / "plans").mkdir(parents=True)
        (run / "state" / "session").write_text("earlier|small.invarlock.yaml|")
        if revision is not None:
            revisions_file(run / "state" / "model_revisions.json", **{"org/tiny": revision})

    return make


@pytest.mark.parametrize(
    "resume", ["newest", "small-20260102T000000Z", "out/small-20260102T000000Z"]
)
def test_with_the_network_a_resumed_run_says_at_which_revision(
    resume: str, pinned: Any, answers: Any, hub_cache: Any, earlier_run: Any, tmp_path: Path
) -> None:
    earlier_run("small-20260101T000000Z", OTHER)
    earlier_run("small-20260102T000000Z")
    answers["org/tiny"] = HubState(COMMIT)
    assert not pinned("org/tiny", allow_network="1", resume=resume).problems
    # Not resumed, the run measures what the Hub has by now; a file of one's own beats both.
    assert not pinned("org/tiny", allow_network="1").problems
    revisions_file(tmp_path / "r.json", **{"org/tiny": OTHER})
    assert not pinned("org/tiny", allow_network="1", resume=resume, revisions="r.json").problems
    assert [asked for _, asked, _ in answers["asked"]] == [COMMIT, None, OTHER]


def test_a_resumed_run_that_pinned_nothing_keeps_nobody_from_asking(
    pinned: Any, answers: Any, hub_cache: Any, earlier_run: Any
) -> None:
    answers["org/tiny"] = HubState(COMMIT)
    assert not pinned("org/tiny", allow_network="1", resume="newest").problems
    earlier_run("small-20260101T000000Z", None)
    assert not pinned("org/tiny", allow_network="1", resume="newest").problems
    assert [asked for _, asked, _ in answers["asked"]] == [None, None]
    assert codes(pinned("org/tiny", allow_network="1", resume="absent")) == ["UNKNOWN_RUN"]


def test_without_the_network_the_resumed_run_pins_before_a_newer_one(
    pinned: Any, hub_cache: Any, earlier_run: Any
) -> None:
    hub_cache("org/tiny")
    earlier_run("small-20260101T000000Z", COMMIT)
    earlier_run("small-20260102T000000Z", OTHER)
    found = pinned("org/tiny", profile="ci", resume="small-20260101T000000Z")
    assert (codes(found), found.models) == ([], {"org/tiny": f"org/tiny@{COMMIT}"})


@pytest.mark.parametrize(("closed", "code"), [("gated", "HUB_GATED"), ("private", "HUB_PRIVATE")])
def test_a_closed_model_needs_approval(
    closed: str, code: str, pinned: Any, answers: Any, hub_cache: Any
) -> None:
    answers["org/tiny"] = HubState(COMMIT, **{closed: True}, is_approved=False)
    found = pinned("org/tiny", allow_network="1")
    assert codes(found) == [code]
    assert f"this model is {closed}" in str(found.problems[0])
    assert "hf auth login" in found.problems[0].remedy
    answers["org/tiny"] = HubState(COMMIT, **{closed: True}, is_approved=True)
    found = pinned("org/tiny", allow_network="1")
    assert not found.problems
    assert found.resolved["models"]["org/tiny"][closed] is True


def test_a_hub_that_does_not_answer_is_no_network(
    pinned: Any, answers: Any, hub_cache: Any
) -> None:
    hub_cache("org/tiny")
    answers["org/tiny"] = HubUnreachable("no route")
    assert codes(pinned("org/tiny", profile="ci", allow_network="1")) == ["REVISION_UNPINNED"]
    found = pinned("org/tiny", allow_network="1")
    assert found.models == {"org/tiny": f"org/tiny@{COMMIT}"}
    assert found.notes[0] == "org/tiny: the Hub did not answer (no route): as without the network"


def test_pins_reach_pairs_subjects_and_data(suite_of: Any) -> None:
    scenarios = "  - {id: other, strictness: must_pass, subject: 'hf:org/other'}\n"
    suite = suite_of("org/tiny", provider="wikitext2", scenarios=scenarios)
    models = {"org/tiny": f"org/tiny@{COMMIT}", "hf:org/other": f"hf:org/other@{OTHER}"}
    pins = Pins.read(Pins(models, {"Salesforce/wikitext": OTHER}).plain())
    pair = pins.pair(suite.pairs[0])
    assert (pair.name, pair.baseline) == ("org/tiny", f"org/tiny@{COMMIT}")
    assert pins.scenario(suite.scenarios[0]).subject == f"hf:org/other@{OTHER}"
    assert pins.plan(suite.plan).source.revision == OTHER
    assert Pins().plan(suite.plan) == suite.plan
    # What is measured is named by its digest: a pin is no other plan.
    digests = {"source": None, "data_digest": None}
    assert pins.plan(suite.plan).document(**digests) == suite.plan.document(**digests)
