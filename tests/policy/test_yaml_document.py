"""Suite files are read under the YAML 1.2 core schema, and every error names its line."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy import yaml_document
from pytest_invarlock.policy.yaml_document import load_yaml, parse_yaml

if TYPE_CHECKING:
    from pathlib import Path

PROPERTY = settings(deadline=None, max_examples=60, database=None, derandomize=True)


def value_of(text: str) -> Any:
    return parse_yaml(f"key: {text}", name="f.yaml").value["key"]


def test_a_key_that_stands_twice_is_an_error_naming_both_lines() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", name="my.yaml")
    assert caught.value.code == "DUPLICATE_KEY"
    assert "my.yaml:5: key 'c' stands twice (first on line 3)" in caught.value.cause


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "just words\n", "", "# nothing\n", "42\n"])
def test_a_document_that_is_no_mapping_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"f\.yaml: must hold a mapping"):
        parse_yaml(text, name="f.yaml")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [1, 2\n", 3),
        ("a: 1\n\tb: 2\n", 2),
        ("a: 1\n---\nb: 2\n", 2),
        ("a: 'open\n", 2),
        ("a: *nowhere\n", 1),
    ],
)
def test_bad_syntax_names_file_and_line(text: str, line: int) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, name="f.yaml")
    assert f"f.yaml:{line}: not valid YAML" in caught.value.cause


def test_control_characters_are_bad_syntax() -> None:
    with pytest.raises(ConfigError, match=r"f\.yaml: not valid YAML"):
        parse_yaml("a: \x01\n", name="f.yaml")


@pytest.mark.parametrize("text", ["a: &x [*x]\n", "a: &x {b: *x}\n"])
def test_a_document_that_contains_itself_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"f\.yaml"):
        parse_yaml(text, name="f.yaml")


def test_a_key_that_is_no_word_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"f\.yaml:2: a key must be a word"):
        parse_yaml("a: 1\n? [1, 2]\n: b\n", name="f.yaml")


def test_a_file_that_is_not_utf_8_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("name: Käse\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml: is not UTF-8"):
        load_yaml(path)


@pytest.mark.parametrize("name", ["absent.yaml", "."])
def test_a_file_that_cannot_be_read_is_an_error_with_its_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_yaml(tmp_path / name)
    assert caught.value.code == "UNREADABLE_FILE"
    assert str(tmp_path) in caught.value.cause


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("9e-4", 9e-4), ("1e3", 1000.0), ("1.", 1.0), (".5", 0.5), ("-2.5E+1", -25.0),
        ("12", 12), ("-7", -7), ("+7", 7), ("010", 10), ("0o17", 15), ("0xfF", 255),
        ("on", "on"), ("off", "off"), ("yes", "yes"), ("no", "no"), ("NO", "NO"),
        ("y", "y"), ("true", True), ("False", False), ("TRUE", True), ("tRue", "tRue"),
        ("~", None), ("null", None), ("", None), ("nUll", "nUll"),
        ("'12'", "12"), ('"true"', "true"), ("|\n  12\n", "12\n"),
        ("1_000", "1_000"), ("0b11", "0b11"), ("12:30:45", "12:30:45"), ("2024-01-02", "2024-01-02"),
        (".inf", math.inf), ("-.INF", -math.inf), ("1.2.3", "1.2.3"), ("e5", "e5"), ("-", [None]),
    ],
)  # fmt: skip
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    if text == "-":
        assert parse_yaml("key:\n-\n", name="f").value["key"] == value
        return
    read = value_of(text)
    assert read == value
    assert type(read) is type(value)


def test_nan_is_read_as_nan() -> None:
    assert math.isnan(value_of(".nan"))


@PROPERTY
@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**18), 10**18))
def test_every_number_python_writes_is_read_back(number: float) -> None:
    read = value_of(repr(number))
    assert read == number
    assert type(read) is type(number)


def test_lines_of_nested_keys_are_remembered() -> None:
    document = parse_yaml(
        "# head\nname: x\nscenarios:\n  - id: a\n    edit:\n      name: noop\n  - id: b\n",
        name="f.yaml",
    )
    assert document.line_of(("name",)) == 2
    assert document.line_of(("scenarios", 0, "edit", "name")) == 6
    assert document.line_of(("scenarios", 1)) == 7
    assert document.line_of(("scenarios", 1, "id")) == 7


def test_the_line_of_an_absent_key_is_its_nearest_parents() -> None:
    document = parse_yaml("a: 1\nb:\n  c: {d: 1}\n", name="f.yaml")
    assert document.line_of(("b", "c", "absent", 3)) == 3
    assert document.line_of(("absent",)) == 1


@pytest.mark.parametrize(
    ("text", "tag"),
    [("a: 1\nb: !!str 8\n", "!!str"), ("a: 1\nb: !!python/object:os.system x\n", "!!python"),
     ("a: 1\nb: !mine [1]\n", "!mine"), ("a: 1\nb: ! 8\n", "!"), ("a: 1\n!!str b: 1\n", "!!str")],
)  # fmt: skip
def test_a_tag_is_refused_with_its_line(text: str, tag: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, name="my.yaml")
    assert caught.value.code == "YAML_TAG"
    assert caught.value.cause.startswith(f"my.yaml:2: tag {tag}")


@pytest.mark.parametrize(
    "text", ["a: " + "[" * 3000 + "]" * 3000, "a: " + "{b: " * 3000 + "}" * 3000]
)
def test_what_is_nested_too_deeply_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, name="my.yaml")
    assert "stand too deep in one another" in caught.value.cause


def test_aliases_may_not_stand_for_more_than_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_document, "MAX_VALUES", 1000)
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20)]
    with pytest.raises(ConfigError) as caught:
        parse_yaml("\n".join(["a0: &a0 [x]", *levels]), name="f.yaml")
    assert caught.value.code == "TOO_LARGE"


@pytest.mark.parametrize("text", ["9" * 401, "0x" + "f" * 401])
def test_a_number_has_no_more_digits_than_any_that_is_meant(text: str) -> None:
    with pytest.raises(ConfigError, match=r"f\.yaml:1: .* too many digits"):
        value_of(text)


@pytest.mark.parametrize("text", ["9" * 20, "-" + "9" * 19, "9" * 309, "9" * 5000])
def test_a_count_that_nothing_can_count_to_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(f"a:\n  b: {text}", name="my.yaml")
    assert caught.value.cause == f"my.yaml:2: {text[:20]}… has too many digits"
