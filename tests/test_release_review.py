"""A release review: each demand in a case in which it fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_invarlock.release_desk import ReleaseDesk
from pytest_invarlock.release_review import ReleaseReview, with_release_review
from pytest_invarlock.signal_summary import signal_summary
from pytest_invarlock.verdict import RunVerdict

PASSED = RunVerdict("PASS", (), signal_summary([], (), {}))
HELD = ReleaseReview(signed=True, provenance=True)


def record(determinism="strict", attested=()) -> Any:
    facts = SimpleNamespace(
        model="m", scenario="s", draw=0, plan={"determinism": determinism},
        attested={name: {} for name in attested},
    )  # fmt: skip
    return SimpleNamespace(facts=facts)


def policies(profile="release", checks=("primary_metric",)) -> Any:
    return {("m", "s"): SimpleNamespace(profile=profile, checks=checks)}


def test_without_a_review_nothing_is_demanded():
    assert with_release_review(PASSED, None, [record("throughput")], policies("dev")) is PASSED


def test_what_meets_every_demand_stays_a_pass():
    for profile in ("ci", "release"):
        verdict = with_release_review(PASSED, HELD, [record()], policies(profile))
        assert verdict.verdict == "PASS"
        assert len(verdict.requirements) == 5
    listed = policies(checks=("primary_metric", "theirs"))
    assert (
        with_release_review(PASSED, HELD, [record(attested=["theirs"])], listed).verdict == "PASS"
    )


@pytest.mark.parametrize(
    ("broken", "review", "records", "by"),
    [
        ("release_signed", ReleaseReview(False, True), [record()], policies()),
        ("release_provenance", ReleaseReview(True, False), [record()], policies()),
        ("release_profile", HELD, [record()], policies("dev")),
        ("release_profile", HELD, [record()], policies("ci_cpu")),
        ("release_determinism", HELD, [record("throughput"), record()], policies()),
        ("release_guards_listed", HELD, [record(attested=["theirs"])], policies()),
    ],
)
def test_each_demand_fails_the_verdict(broken, review, records, by):
    verdict = with_release_review(PASSED, review, records, by)
    assert verdict.verdict == "FAIL"
    assert [rule.name for rule in verdict.requirements if not rule.passed] == [broken]


def test_of_no_records_nothing_holds():
    assert with_release_review(PASSED, HELD, [], {}).verdict == "FAIL"


SETTINGS = {"release-review": "1", "signing-key": "key.pem"}


def desk(tmp_path, **made) -> ReleaseDesk:
    from pytest_invarlock.policy.settings import Setting, Settings

    given = SETTINGS | {key.replace("_", "-"): value for key, value in made.items()}
    settings = Settings({k: Setting((v,), f"--invarlock-{k}") for k, v in given.items()})
    config: Any = SimpleNamespace(rootpath=tmp_path)
    activation: Any = SimpleNamespace(settings=settings, out=tmp_path / "out")
    return ReleaseDesk(config, activation)


def suite(profile="release", determinism="strict", guards=()) -> Any:
    foreign = tuple(SimpleNamespace(name=name) for name in guards)
    return SimpleNamespace(
        name="s",
        policies=lambda: [SimpleNamespace(profile=profile, checks=("primary_metric",))],
        plan=SimpleNamespace(determinism=determinism, foreign_guards=foreign),
    )


@pytest.fixture
def marked(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "GPU_RUN_SOURCE.txt").write_text(f"source_commit={'a' * 40}\n")
    return tmp_path


def test_what_is_known_to_hold_is_let_through(marked):
    desk(marked).check([suite(), suite("ci")])


@pytest.mark.parametrize(
    ("made", "one", "told"),
    [
        ({"signing_key": "auto"}, suite(), "no named key"),
        ({"signing_key": "none"}, suite(), "no named key"),
        ({"no_pack": "1"}, suite(), "no-pack"),
        ({"tune": "1"}, suite(), "tune"),
        ({"sweep": "a:b=1"}, suite(), "sweep"),
        ({"mode": "calibrate-only"}, suite(), "calibrate-only"),
        ({}, suite(profile="dev"), "profile dev of s"),
        ({}, suite(profile="ci_cpu"), "profile ci_cpu of s"),
        ({}, suite(determinism="throughput"), "determinism throughput of s"),
        ({}, suite(guards=["theirs"]), "guard theirs"),
    ],
)
def test_what_is_known_not_to_hold_is_a_usage_error(marked, made, one, told):
    with pytest.raises(pytest.UsageError, match=f"release-review.*{told}.*RELEASE_REVIEW"):
        desk(marked, **made).check([suite(), one])


def test_without_provenance_it_is_a_usage_error(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(pytest.UsageError, match="neither a git repository nor a marker"):
        desk(tmp_path).check([suite()])
    desk(tmp_path, release_review="0").check([suite("dev")])


@pytest.mark.parametrize(
    ("verdict", "sealed", "refused"),
    [("PASS", object(), False), ("PASS", None, True), ("FAIL", object(), True), (None, None, True)],
)
def test_anything_but_a_sealed_pass_fails_the_session(marked, verdict, sealed, refused):
    summary: Any = SimpleNamespace(
        verdict=None if verdict is None else SimpleNamespace(verdict=verdict), sealed=sealed
    )
    assert desk(marked).refuses(summary) is refused
    assert not desk(marked, release_review="0").refuses(summary)
