"""``extends``: deep merging, confined to shipped names and the file's own folder, no cycles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.settings import collect_settings
from pytest_invarlock.policy.suite import Suite, load_suite

if TYPE_CHECKING:
    from pathlib import Path

BASE = """\
name: base
models: [builtin:llama]
dataset: {provider: pydoc, seq_len: 64, preview_n: 10, final_n: 10}
scenarios:
  - {id: same, strictness: must_pass, edit: {name: noop}}
"""


def load(folder: Path, text: str, **others: str) -> Suite:
    for name, other in others.items():
        (folder / f"{name}.yaml").write_text(other)
    (folder / "my.yaml").write_text(text)
    return load_suite(str(folder / "my.yaml"), collect_settings({}.get, {}.get, {}), folder)


def refusal(folder: Path, text: str, **others: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, **others)
    return caught.value


def test_mappings_merge_and_lists_are_replaced(tmp_path: Path) -> None:
    text = "extends: base.yaml\nname: mine\nmodels: [builtin:gpt2]\ndataset: {seq_len: 96}\n"
    suite = load(tmp_path, text, base=BASE)
    assert suite.name == "mine"
    assert [pair.baseline for pair in suite.pairs] == ["builtin:gpt2"]
    assert (suite.plan.windows.seq_len, suite.plan.windows.final_windows) == (96, 10)


def test_files_chain(tmp_path: Path) -> None:
    middle = "extends: base.yaml\nname: middle\ndataset: {seq_len: 96}\n"
    suite = load(
        tmp_path, "extends: middle.yaml\ndataset: {stride: 48}\n", base=BASE, middle=middle
    )
    assert (suite.name, suite.plan.windows.seq_len, suite.plan.windows.stride) == ("middle", 96, 48)


def test_a_shipped_suite_is_extended_under_a_name_of_ones_own(tmp_path: Path) -> None:
    suite = load(tmp_path, "extends: demo\nname: mine\nmodels: [builtin:gpt2]\n")
    assert (suite.name, len(suite.pairs), len(suite.scenarios)) == ("mine", 1, 6)
    assert load(tmp_path, "extends: demo\n").name == "my"


def test_a_run_configuration_extends_a_preset(tmp_path: Path) -> None:
    text = "extends: masked\nmodel: {id: gpt2}\nedit: {name: noop}\ndataset: {final_n: 64}\n"
    plan = load(tmp_path, text + "preset: causal\nprofile: dev\n").plan
    assert (plan.metric, plan.windows.final_windows) == ("ppl_mlm", 64)


@pytest.mark.parametrize(
    ("reference", "cause"),
    [("../base.yaml", "lies outside the file's own folder"),
     ("/etc/base.yaml", "lies outside the file's own folder"),
     ("link.yaml", "lies outside the file's own folder"),
     ("dmo", "nothing shipped is named 'dmo'"),
     ("my.yaml", "leads back to itself"), ("back.yaml", "leads back to itself"),
     ("[demo]", "names no file"), ('""', "names no file"),
     ("missing.yaml", "cannot be read")],
)  # fmt: skip
def test_refusals(tmp_path: Path, reference: str, cause: str) -> None:
    folder = tmp_path / "suites"
    folder.mkdir()
    (tmp_path / "base.yaml").write_text(BASE)
    (folder / "link.yaml").symlink_to(tmp_path / "base.yaml")
    error = refusal(folder, f"name: x\nextends: {reference}\n", back="extends: my.yaml\n")
    assert cause in error.cause


def test_errors_name_the_file_that_is_wrong(tmp_path: Path) -> None:
    base = BASE + "run: {device: cpu, thread: 1}\n"
    assert refusal(tmp_path, "extends: base.yaml\nname: x\n", base=base).cause == (
        f"{tmp_path}/base.yaml:6: unknown key 'run.thread'"
    )
    upper = "name: x\nextends: base.yaml\nrun: {devices: cpu}\n"
    assert refusal(tmp_path, upper, base=BASE).cause == (
        f"{tmp_path}/my.yaml:3: unknown key 'run.devices'"
    )
    base = BASE.replace("noop", "nop")
    assert f"{tmp_path}/base.yaml:5: " in refusal(tmp_path, "extends: base.yaml\n", base=base).cause


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path, 'extends: "a\\0.yaml"\n')
    assert (error.code, error.cause) == (
        "EXTENDS", f"{tmp_path}/my.yaml:1: extends: 'a\\x00.yaml' is no file name",
    )  # fmt: skip


def test_a_long_chain_of_files_is_refused(tmp_path: Path) -> None:
    chain = {f"k{n}": f"extends: k{n + 1}.yaml\n" for n in range(1500)}
    error = refusal(tmp_path, "extends: k0.yaml\n", **chain, k1500=BASE)
    assert error.code == "EXTENDS"
    assert "50 files extend one another" in error.cause
    short = {f"k{n}": f"extends: k{n + 1}.yaml\n" for n in range(48)}
    assert load(tmp_path, "extends: k0.yaml\n", **short, k48=BASE).scenarios


def test_a_suite_that_is_no_mapping_of_its_own_takes_its_files_name(tmp_path: Path) -> None:
    (tmp_path / "two words.invarlock.yaml").write_text("extends: demo\n")
    suite = load_suite(
        str(tmp_path / "two words.invarlock.yaml"),
        collect_settings({}.get, {}.get, {}), tmp_path,
    )  # fmt: skip
    assert suite.name == "two-words"
