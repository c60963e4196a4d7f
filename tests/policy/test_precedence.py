"""One rule for every setting: command line, environment, ini, suite file, profile, default."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from pytest_invarlock.policy.plan_settings import build_plan, build_policy
from pytest_invarlock.policy.settings import SETTINGS, Settings, SettingSpec, collect_settings

WAYS = ("option", "environment", "ini")
# Of each setting that reaches plan or policy: values as given, in order, and where it ends.
# (setting, values a user gives, key path in a suite file, value there, path in plan or policy)
REACHING: list[tuple[str, tuple[str, str, str], str, Any, str]] = [
    ("tier", ("conservative", "aggressive", "balanced"), "tier", "aggressive", "policy.tier"),
    ("profile", ("release", "ci", "ci_cpu"), "profile", "dev", "policy.profile"),
    ("preview-windows", ("41", "42", "43"), "dataset.preview_n", 44,
     "plan.windows.preview_windows"),
    ("final-windows", ("41", "42", "43"), "dataset.final_n", 44, "plan.windows.final_windows"),
    ("seq-len", ("61", "62", "63"), "dataset.seq_len", 64, "plan.windows.seq_len"),
    ("stride", ("21", "22", "23"), "dataset.stride", 24, "plan.windows.stride"),
    ("dataset", ("synthetic", "local_jsonl:a", "pydoc"), "dataset.provider", "synthetic",
     "plan.source.provider"),
    ("adapter", ("hf_mlm", "hf_causal", "auto"), "run.adapter", "hf_seq2seq", "plan.adapter"),
    ("batch", ("11", "12", "13"), "run.batch_tokens", 14, "plan.batch_tokens"),
    ("device", ("cpu", "cuda", "auto"), "run.device", "mps", "plan.device"),
    ("dtype", ("float16", "float32", "auto"), "run.dtype", "float64", "plan.dtype"),
    ("threads", ("1", "2", "3"), "run.threads", 4, "plan.threads"),
    ("determinism", ("strict", "throughput", "strict"), "run.determinism", "throughput",
     "plan.determinism"),
]  # fmt: skip


def settings(**ways: dict[str, str]) -> Settings:
    return collect_settings(
        ways.get("option", {}).get, ways.get("ini", {}).get, ways.get("environment", {})
    )


def named(spec: SettingSpec, way: str) -> str:
    return spec.environment if way == "environment" else spec.dest


@pytest.mark.parametrize("spec", SETTINGS, ids=lambda spec: spec.name)
def test_every_setting_is_read_in_order(spec: SettingSpec) -> None:
    for first, second in combinations(WAYS, 2):
        made = settings(**{first: {named(spec, first): "a"}, second: {named(spec, second): "b"}})
        assert made.texts(spec.name) == ("a",), (first, second)
    for way in WAYS:
        assert settings(**{way: {named(spec, way): ""}}).text(spec.name) is None


def result(value: dict[str, Any], made: Settings, where: str, folder: Path) -> Any:
    kind, *path = where.split(".")
    found: Any = (
        build_policy(value, made, {}) if kind == "policy" else build_plan(value, made, folder)
    )
    for name in path:
        found = getattr(found, name)
    return found


@pytest.mark.parametrize(
    ("name", "given", "key", "in_file", "where"), REACHING, ids=[row[0] for row in REACHING]
)
def test_a_setting_beats_the_suite_file(
    tmp_path: Path, name: str, given: tuple[str, str, str], key: str, in_file: Any, where: str
) -> None:
    spec = next(spec for spec in SETTINGS if spec.name == name)
    value: dict[str, Any] = {"dataset": {"provider": "pydoc"}}
    block, _, inner = key.partition(".")
    value[block] = {**value.get(block, {}), inner: in_file} if inner else in_file
    other = {"preview-windows": "final-windows", "final-windows": "preview-windows"}.get(name)
    twins = [spec] if other is None else [spec, next(s for s in SETTINGS if s.name == other)]
    if other is not None:
        value["dataset"] = {"provider": "pydoc", "preview_n": in_file, "final_n": in_file}
    assert result(value, settings(), where, tmp_path) == in_file
    ways: dict[str, dict[str, str]] = {}
    for way, text in reversed(list(zip(WAYS, given, strict=True))):
        ways[way] = {named(twin, way): text for twin in twins}
        assert str(result(value, settings(**ways), where, tmp_path)) == text.partition(":")[0]


@pytest.mark.parametrize(
    ("where", "dev", "release"),
    [("plan.windows.final_windows", 64, 400), ("plan.determinism", "throughput", "strict"),
     ("policy.floors.documents", 20, 40), ("policy.primary_metric.bootstrap_replicates", 999, 3999)],
)  # fmt: skip
def test_the_profile_stands_where_nothing_else_does(
    tmp_path: Path, where: str, dev: Any, release: Any
) -> None:
    value = {"dataset": {"provider": "pydoc"}}
    assert result({**value, "profile": "dev"}, settings(), where, tmp_path) == dev
    assert result({**value, "profile": "release"}, settings(), where, tmp_path) == release


def test_the_default_comes_last(tmp_path: Path) -> None:
    value = {"dataset": {"provider": "pydoc"}}
    assert result(value, settings(), "plan.windows.seq_len", tmp_path) == 512
    assert result(value, settings(), "policy.tier", tmp_path) == "balanced"
