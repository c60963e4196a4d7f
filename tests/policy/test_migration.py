"""The original's variables: all of them stand in the table, and what is an alias is really read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_invarlock.policy.migration import old_variables, old_variables_set
from pytest_invarlock.policy.plan_settings import build_plan
from pytest_invarlock.policy.settings import SPECS, Settings, collect_settings

ROOT = Path(__file__).parents[2]
ALIASES = [
    old for old in old_variables() if old.setting and old.name != SPECS[old.setting].environment
]


def made(environment: dict[str, str], **option: str) -> Settings:
    given = {f"invarlock_{name}": value for name, value in option.items()}
    return collect_settings(given.get, {"invarlock_out": "ini"}.get, environment)


def test_every_variable_stands_there_once_and_names_what_exists() -> None:
    names = [old.name for old in old_variables()]
    assert len(set(names)) == len(names)
    assert {old.setting for old in old_variables() if old.setting} <= set(SPECS)


@pytest.mark.parametrize("old", ALIASES, ids=lambda old: old.name)
def test_an_alias_is_read_in_the_place_of_the_environment(old) -> None:
    new = SPECS[old.setting].environment
    settings = made({old.name: "v"})
    assert settings.text(old.setting) == "v"
    assert settings.made[old.setting].origin == old.name
    assert settings.notes == (f"{old.name} is read as {new}",)
    both = made({old.name: "v", new: "w"})
    assert (both.text(old.setting), both.notes) == ("w", ())
    option = made({old.name: "v"}, **{old.setting.replace("-", "_"): "o"})
    assert (option.text(old.setting), option.notes) == ("o", ())


def test_ignored_and_empty_values_count_as_not_made() -> None:
    assert made({"PACK_REPEATS": "0", "PACK_OUTPUT_DIR": ""}).made.keys() == {"out"}


def test_the_same_name_is_no_alias() -> None:
    settings = made({"INVARLOCK_TIER": "balanced", "PACK_X": "1"})
    assert (settings.text("tier"), settings.notes) == ("balanced", ())


def test_arguments_of_a_provider_reach_the_plan(tmp_path: Path) -> None:
    settings = made(
        {
            "INVARLOCK_DATASET": "local_jsonl",
            "INVARLOCK_LOCAL_JSONL_FILE": str(tmp_path / "a.jsonl"),
            "INVARLOCK_LOCAL_JSONL_MAX_SAMPLES": "7",
            "INVARLOCK_HF_TEXT_FIELD": "ignored",
        }
    )
    plan = build_plan({}, settings, tmp_path)
    assert plan.source.locations == (str(tmp_path / "a.jsonl"),)
    assert (plan.source.max_samples, plan.source.text_field) == (7, "text")
    assert any("file, max_samples of local_jsonl are read" in note for note in plan.notes)


@pytest.mark.parametrize("text", ["kind: local_jsonl\nfile: a.jsonl\n", '{"kind": "pydoc"}'])
def test_a_provider_is_given_as_a_mapping(tmp_path: Path, text: str) -> None:
    plan = build_plan({}, made({"INVARLOCK_DATASET_PROVIDER_YAML": text}), tmp_path)
    assert plan.source.provider in text


def test_what_is_set_is_found_for_doctor() -> None:
    environment = {"TASK_TIMEOUT_EVAL": "1", "PACK_NET": "1", "TASK_TIMEOUT_": "1", "HOME": "x"}
    assert [(name, old.name) for name, old in old_variables_set(environment)] == [
        ("PACK_NET", "PACK_NET"),
        ("TASK_TIMEOUT_EVAL", "TASK_TIMEOUT_<TYPE>"),
    ]


def test_the_page_is_current() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "migration_table.py"), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
