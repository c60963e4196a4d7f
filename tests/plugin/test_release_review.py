"""A release review from end to end: refused before anything is loaded, or sealed with its proof."""

from __future__ import annotations

import json

import pytest

from pytest_invarlock.evidence.keys import generate_key
from tests.plugin.conftest import HEAD

RELEASE = HEAD.replace("profile: dev", "profile: ci")
ASKED = "--invarlock-release-review"


@pytest.fixture
def marked(repository, monkeypatch):
    """A repository whose state a marker tells, and a named key."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(repository.path.parent))
    marker = f"source_commit={'a' * 40}\n"
    (repository.path / "GPU_RUN_SOURCE.txt").write_text(marker)
    generate_key(repository.path / "key.pem")
    return repository


def test_a_demand_that_is_known_not_to_hold_ends_before_anything_is_loaded(marked):
    key = "--invarlock-signing-key=key.pem"
    for arguments, told in (
        ((marked.suite("noop", head=RELEASE), ASKED), "no named key"),
        ((marked.suite("noop"), ASKED, key), "profile dev of small"),
        # Found in a folder, the suite is known once it is collected.
        ((".", ASKED, key), "profile dev of small"),
    ):
        result = marked.run(*arguments)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"ERROR: --invarlock-release-review does not go with {told}*"])
    assert not marked.runs


def test_what_holds_is_sealed_with_its_requirements_and_provenance(marked):
    suite = marked.suite("noop", head=RELEASE)
    key = "--invarlock-signing-key=key.pem"
    assert marked.run(suite, ASKED, key).ret == pytest.ExitCode.OK
    verdict = marked.verdict()
    assert verdict["verdict"] == "PASS"
    names = [rule["requirement"] for rule in verdict["requirements"] if rule["passed"]]
    assert names[-5:] == [
        "release_signed", "release_provenance", "release_profile", "release_determinism",
        "release_guards_listed",
    ]  # fmt: skip
    pack = marked.latest / "evidence_pack"
    manifest = json.loads((pack / "manifest.json").read_text())
    assert manifest["references"]["source_repo"]["path"] == "metadata/source_repo.json"
    assert json.loads((pack / "metadata/source_repo.json").read_text())["commit"] == "a" * 40
    assert "UNSIGNED" not in (marked.latest / "summary.md").read_text()
    # A part of it certifies no release.
    assert marked.run(suite, ASKED, key, "-k", "primary_metric").ret == pytest.ExitCode.TESTS_FAILED
