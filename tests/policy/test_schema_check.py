"""A document that breaks its schema is refused with file, line, dotted key and nearest name."""

from __future__ import annotations

import pytest

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.schema_check import check_document, dotted
from pytest_invarlock.policy.yaml_document import parse_yaml

GOOD = """\
name: mine
models: [builtin:llama]
dataset:
  provider: pydoc
  seq_len: 64
scenarios:
  - id: one
    strictness: must_pass
    edit: {name: noop}
"""


def refusal(text: str, schema: str = "suite") -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        check_document(parse_yaml(text, name="my.yaml"), schema)
    return caught.value


def test_an_unknown_key_is_refused_with_file_line_key_and_nearest() -> None:
    error = refusal(GOOD.replace("  seq_len: 64", "  seq_length: 64"))
    assert error.code == "UNKNOWN_KEY"
    assert error.cause == "my.yaml:5: unknown key 'dataset.seq_length'"
    assert error.remedy == "did you mean 'seq_len'?"


def test_an_unknown_key_in_a_list_names_its_index() -> None:
    error = refusal(GOOD.replace("    edit:", "    edits:"))
    assert error.cause == "my.yaml:9: unknown key 'scenarios[0].edits'"
    assert "'edit'" in error.remedy


def test_an_unknown_key_like_none_lists_the_keys() -> None:
    error = refusal(GOOD + "zzzzzz: 1\n")
    assert "my.yaml:10: unknown key 'zzzzzz'" in error.cause
    assert "scenarios" in error.remedy


def test_a_good_document_is_accepted_as_it_is() -> None:
    document = parse_yaml(GOOD, name="my.yaml")
    check_document(document, "suite")
    assert document.value["dataset"] == {"provider": "pydoc", "seq_len": 64}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (("seq_len: 64", "seq_len: 8"), "my.yaml:5: dataset.seq_len"),
        (("seq_len: 64", "seq_len: on"), "my.yaml:5: dataset.seq_len"),
        (("seq_len: 64", "seq_len: true"), "my.yaml:5: dataset.seq_len"),
        (("provider: pydoc", "provider: pydocs"), "my.yaml:4: dataset.provider"),
        (("must_pass", "must_sing"), "my.yaml:8: scenarios[0].strictness"),
        (("id: one", "id: 'a b'"), "my.yaml:7: scenarios[0].id"),
        (("[builtin:llama]", "[]"), "my.yaml:2: models"),
        (("    edit: {name: noop}\n", ""), "my.yaml:7: scenarios[0]"),
        (("edit: {name: noop}", "edit: {name: noop}\n    subject: x"), "my.yaml:7: scenarios[0]"),
        (("name: mine\n", ""), "my.yaml:1: the document"),
    ],
)
def test_a_bad_value_names_file_line_and_key(change: tuple[str, str], where: str) -> None:
    error = refusal(GOOD.replace(*change))
    assert error.code == "BAD_VALUE"
    assert error.cause.startswith(where + ": ")


@pytest.mark.parametrize("number", [".nan", ".inf"])
@pytest.mark.parametrize("key", ["ratio_limit", "catastrophic_ratio"])
def test_a_limit_that_is_no_number_is_refused(number: str, key: str) -> None:
    error = refusal(GOOD + f"primary_metric:\n  {key}: {number}\n")
    assert f"my.yaml:11: primary_metric.{key}" in error.cause


def test_the_topmost_of_two_violations_is_told() -> None:
    error = refusal(GOOD.replace("seq_len: 64", "seq_len: 8").replace("must_pass", "x"))
    assert "my.yaml:5:" in error.cause


def test_paths_read_as_people_write_them() -> None:
    assert dotted(("scenarios", 2, "edit", "plan")) == "scenarios[2].edit.plan"
    assert dotted(()) == ""
