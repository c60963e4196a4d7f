"""Other packages' guards in suite files and tiers: nothing is demanded that nobody could ask."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import ForeignGuard
from pytest_invarlock.policy.decision_policy import (
    KNOWN_GUARDS,
    DecisionPolicy,
    policy_from_document,
)
from pytest_invarlock.policy.resources import read_text, schema, strict_validator
from pytest_invarlock.policy.settings import Settings, collect_settings
from pytest_invarlock.policy.suite import Suite, load_suite_file
from pytest_invarlock.registered import GUARDS, registered

if TYPE_CHECKING:
    from tests.conftest import Installer

CODE = "raise ImportError('nothing of a guard is imported before it is asked')"
SUITE = """\
name: small
models: ["builtin:llama"]
dataset: {provider: pydoc}
scenarios: [{id: noop, strictness: must_pass, edit: {name: noop}}]
"""
CONFIGURATION = """\
model: {id: "builtin:llama"}
dataset: {provider: pydoc}
edit: {name: noop}
"""
METRICS = ("primary_metric", "drift", "tail")


@pytest.fixture(autouse=True)
def _installed(install: Installer) -> None:
    install("my-guards", CODE, mine="Mine", other="Other")


def load(tmp_path: Path, block: str, base: str = SUITE) -> Suite:
    path = tmp_path / "my.invarlock.yaml"
    path.write_text(base + block + "\n", encoding="utf-8")
    return load_suite_file(path, Settings(), tmp_path)


@pytest.mark.parametrize(
    ("block", "told", "code"),
    [
        ("guards: {order: [mien]}", ":5: guards.order: no guard is named 'mien' (did you mean "
         "'mine'?", "UNKNOWN_GUARD"),
        ("guards: {spectal: {max_caps: 3}}", ":5: guards.spectal: no guard is named 'spectal' "
         "(did you mean 'spectral'?", "UNKNOWN_GUARD"),
        ("guards: {order: [tail]}", "no guard is named 'tail'", "UNKNOWN_GUARD"),
        ("guards: {mine: {a: 1}}", ":5: guards.mine: the guard is not in guards.order",
         "GUARD_NOT_IN_ORDER"),
        ("guards: {order: [mine], mine: {mode: off}}", ":5: guards.mine.mode", "BAD_VALUE"),
        ("guards: {order: [mine], mine: strict}", ":5: guards.mine", "BAD_VALUE"),
        ("guards: {order: [mine], mine: {a: .nan}}", ":5: guards.mine: its parameters cannot be",
         "GUARD_PARAMETERS"),
        ("guards: {order: [mine, 3]}", ":5: guards.order[1]", "BAD_VALUE"),
        ("guards: {order: []}", ":5: guards.order", "BAD_VALUE"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("base", [SUITE, CONFIGURATION], ids=["suite", "run configuration"])
def test_mistakes_are_named_with_file_and_line(
    tmp_path: Path, block: str, told: str, code: str, base: str
) -> None:
    lines = base.count("\n") + 1
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, block, base)
    assert told.replace(":5:", f":{lines}:") in str(caught.value)
    assert caught.value.code == code


def test_a_name_that_two_packages_register_is_refused(tmp_path: Path, install: Installer) -> None:
    install("other-guards", CODE, mine="Mine")
    with pytest.raises(ConfigError, match="registered twice: by my-guards and other-guards"):
        load(tmp_path, "guards: {order: [mine]}")


def test_what_comes_and_goes_is_seen_at_once(install: Installer) -> None:
    assert "late" not in registered(GUARDS)
    site = install("late-guards", CODE, late="Mine").parent
    assert [one.distribution for one in registered(GUARDS)["late"]] == ["late-guards"]
    shutil.rmtree(site / "late_guards-1.2.dist-info")
    assert "late" not in registered(GUARDS)


@pytest.mark.parametrize("base", [SUITE, CONFIGURATION], ids=["suite", "run configuration"])
def test_order_modes_and_parameters(tmp_path: Path, base: str) -> None:
    suite = load(
        tmp_path,
        "guards: {order: [invariants, mine, spectral, other, invariants], "
        "mine: {mode: gate, strict: true}, spectral: {mode: monitor}}",
        base,
    )
    assert suite.policy.checks == (
        "invariants", "mine", "spectral", "other", "rmt", "variance", *METRICS,
        "guard_overhead",
    )  # fmt: skip
    assert suite.checks(suite.pairs[0], suite.scenarios[0]) == suite.policy.checks
    assert suite.plan.foreign_guards == (
        ForeignGuard("mine", {"strict": True}, gates=True),
        ForeignGuard("other"),
    )
    modes = suite.policy.modes
    assert (modes["mine"], modes["other"], modes["spectral"]) == ("gate", "monitor", "monitor")
    assert suite.policy.provenance["guards.mine.strict"] == "suite file"
    document: dict[str, Any] = suite.policy.document()
    assert policy_from_document(document) == suite.policy


def test_a_scenario_may_be_for_another_packages_guard_to_detect(tmp_path: Path) -> None:
    base = SUITE.replace(
        "must_pass, edit: {name: noop}", "must_detect, %s, edit: {name: scale_explosion}"
    )
    block = "guards: {order: [mine], mine: {mode: gate}}"
    for keys, found in (
        ("detectors: {any: [mine, tail]}", ("mine", "tail")),
        ("primary_guard: mine", ("mine",)),
    ):
        suite = load(tmp_path, block, base % keys)
        expected = suite.expectation(suite.pairs[0], suite.scenarios[0])
        assert expected.detectors_any == found
    for keys, told in (
        ("detectors: {all: [tail, mien]}", "scenarios[0].detectors.all[1]: no check is named"),
        ("primary_guard: mien", "scenarios[0].primary_guard: no check is named 'mien' (did you"),
    ):
        with pytest.raises(ConfigError) as caught:
            load(tmp_path, block, base % keys)
        assert f".yaml:4: {told}" in str(caught.value)


def test_without_an_order_the_checks_are_the_tiers(tmp_path: Path) -> None:
    suite = load(tmp_path, "guards: {rmt: {mode: monitor}}")
    assert suite.policy.checks == (*KNOWN_GUARDS, *METRICS, "guard_overhead")
    assert suite.plan.foreign_guards == ()


def test_a_tier_demands_a_guard_and_a_suite_file_overrides_its_parameters(tmp_path: Path) -> None:
    tier = (
        read_text("tiers", "balanced.yaml")
        .replace("name: balanced", "name: mine")
        .replace("checks: [invariants,", "checks: [invariants, mine,")
        .replace("guards:\n", "guards:\n  mine: {mode: gate, a: 1, b: 2}\n", 1)
    )
    (tmp_path / "mine.yaml").write_text(tier, encoding="utf-8")
    suite = load(tmp_path, "tier: mine.yaml\nguards: {mine: {b: 3}}")
    assert suite.policy.checks[:2] == ("invariants", "mine")
    assert suite.policy.modes["mine"] == "gate"
    assert suite.plan.foreign_guards == (ForeignGuard("mine", {"a": 1, "b": 3}, gates=True),)
    (tmp_path / "mine.yaml").write_text(tier.replace("  mine: {mode: gate, a: 1, b: 2}\n", ""))
    with pytest.raises(ConfigError, match=r"gives guards\.mine no mode"):
        load(tmp_path, "tier: mine.yaml")


STRICT = "INVARLOCK_GUARD_PREPARE_STRICT"


def policy_of(tmp_path: Path, block: str, base: str, **environment: str) -> DecisionPolicy:
    path = tmp_path / "my.invarlock.yaml"
    path.write_text(base + block + "\n", encoding="utf-8")
    settings = collect_settings(lambda _: None, lambda _: None, environment)
    suite = load_suite_file(path, settings, tmp_path)
    told = [note for note in suite.plan.notes if "prepare" in note]
    assert bool(told) == ("false" in block or environment.get(STRICT) in ("0", "false"))
    assert ("not followed" in "".join(told)) == (bool(told) and suite.policy.strict_guard_prepare)
    return suite.policy


@pytest.mark.parametrize(
    ("block", "base"),
    [
        ("run: {strict_guard_prepare: false}", SUITE),
        ("run: {strict_guard_prepare: false}", CONFIGURATION),
        ("context: {run: {strict_guard_prepare: false}}", CONFIGURATION),
    ],
    ids=["suite", "run configuration", "context"],
)
def test_preparation_is_loosened_in_dev_alone(tmp_path: Path, block: str, base: str) -> None:
    for profile in ("ci", "ci_cpu", "release"):
        strict = policy_of(tmp_path, f"{block}\nprofile: {profile}", base)
        assert strict.strict_guard_prepare
        assert "strict_guard_prepare" not in strict.document()
    loose = policy_of(tmp_path, f"{block}\nprofile: dev", base)
    assert not loose.strict_guard_prepare
    assert loose.provenance["run.strict_guard_prepare"] == "suite file"
    assert policy_from_document(loose.document()) == loose
    packed = {"format": "invarlock-policies-v1", "policies": [loose.document()]}
    assert not list(strict_validator()(schema("policies")).iter_errors(packed))
    assert not policy_of(tmp_path, block, base).strict_guard_prepare
    with pytest.raises(ConfigError, match="profile ci with strict_guard_prepare false"):
        policy_from_document({**loose.document(), "profile": "ci"})
    assert policy_of(tmp_path, block.replace("false", "true"), base).strict_guard_prepare


def test_preparation_is_loosened_by_the_originals_variable(tmp_path: Path) -> None:
    loose = policy_of(tmp_path, "profile: dev", SUITE, **{STRICT: "0"})
    assert not loose.strict_guard_prepare
    assert loose.provenance["run.strict_guard_prepare"] == STRICT
    assert policy_of(tmp_path, "profile: ci", SUITE, **{STRICT: "0"}).strict_guard_prepare
    assert policy_of(tmp_path, "", SUITE, CI="1", **{STRICT: "0"}).strict_guard_prepare
    assert policy_of(tmp_path, "", SUITE, **{STRICT: "1"}).strict_guard_prepare
    with pytest.raises(ConfigError, match=f"{STRICT}: 'maybe' is not one of its values"):
        policy_of(tmp_path, "", SUITE, **{STRICT: "maybe"})
