"""Settings: command line over environment over ini, each value with the place it stands in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.plan_settings import build_plan, build_policy, resolve_profile
from pytest_invarlock.policy.settings import SETTINGS, Settings, collect_settings

if TYPE_CHECKING:
    from pathlib import Path


def collected(
    option: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    ini: dict[str, Any] | None = None,
) -> Settings:
    return collect_settings((option or {}).get, (ini or {}).get, environment or {})


def test_a_word_that_is_no_choice_is_refused_naming_place_and_nearest() -> None:
    settings = collected(environment={"INVARLOCK_PROFILE": "relaese"})
    with pytest.raises(ConfigError) as caught:
        resolve_profile({}, settings)
    assert caught.value.cause == "INVARLOCK_PROFILE: 'relaese' is not one of its values"
    listed = "the values are: dev, ci_cpu, ci, release"
    assert caught.value.remedy == f"did you mean 'release'? {listed}"


@pytest.mark.parametrize("text", ["x", "", " ", "1.5", "0", "-3", "1e3", "1_0x", "nan"])
def test_a_bad_number_is_refused_naming_its_place(text: str) -> None:
    settings = collected(option={"invarlock_final_windows": text})
    if text == "":
        assert settings.number("final-windows") is None
        return
    with pytest.raises(ConfigError) as caught:
        settings.number("final-windows")
    assert f"--invarlock-final-windows: {text!r}" in caught.value.cause
    assert caught.value.remedy == "give a whole number of at least 1"


def test_a_number_below_its_minimum_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 32"):
        collected(option={"invarlock_seq_len": "31"}).number("seq-len", minimum=32)


@pytest.mark.parametrize("spec", SETTINGS, ids=lambda spec: spec.name)
def test_every_setting_is_an_option_a_variable_and_an_ini_key(spec: Any) -> None:
    assert spec.dest == "invarlock_" + spec.name.replace("-", "_")
    ways = [
        collected(option={spec.dest: "v"}),
        collected(environment={spec.environment: "v"}),
        collected(ini={spec.dest: "v"}),
    ]
    origins = [f"--invarlock-{spec.name}", spec.environment, f"ini {spec.dest}"]
    assert [way.text(spec.name) for way in ways] == ["v", "v", "v"]
    assert [way.made[spec.name].origin for way in ways] == origins


def test_the_command_line_beats_the_environment_and_that_the_ini_file() -> None:
    option, environment, ini = (
        {"invarlock_tier": "conservative"},
        {"INVARLOCK_TIER": "balanced"},
        {"invarlock_tier": "aggressive"},
    )
    assert collected(option, environment, ini).text("tier") == "conservative"
    assert collected(None, environment, ini).text("tier") == "balanced"
    assert collected(None, None, ini).text("tier") == "aggressive"
    assert collected().text("tier") is None


@pytest.mark.parametrize("empty", [None, "", False, [], ()])
def test_an_empty_value_gives_way_to_the_next_place(empty: object) -> None:
    settings = collected({"invarlock_model": empty}, {"INVARLOCK_MODEL": "builtin:gpt2"})
    assert settings.texts("model") == ("builtin:gpt2",)


def test_a_repeatable_setting_splits_at_blanks_outside_the_command_line() -> None:
    assert collected(environment={"INVARLOCK_SUBJECT": "a  b"}).texts("subject") == ("a", "b")
    assert collected(option={"invarlock_subject": ["a b", "c"]}).texts("subject") == ("a b", "c")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"/my models/x"', ("/my models/x",)),
        ("'/my models/x' /y", ("/my models/x", "/y")),
        ('"/it\'s/x"', ("/it's/x",)),
        # Quotes inside a word are the word's own: a sweep reads them.
        ('svd:layers="0, 2","1-3" b:c=1', ('svd:layers="0, 2","1-3"', "b:c=1")),
        ('"a" "b"', ("a", "b")),
    ],
)
def test_a_name_with_blanks_stands_in_quotes(text: str, words: tuple[str, ...]) -> None:
    assert collected(environment={"INVARLOCK_SUBJECT": text}).texts("subject") == words
    assert collected(ini={"invarlock_subject": text}).texts("subject") == words


def test_a_quote_that_is_never_closed_is_refused_naming_its_place() -> None:
    with pytest.raises(ConfigError) as caught:
        collected(ini={"invarlock_subject": '"/my models/x'})
    assert caught.value.cause.startswith("ini invarlock_subject: ")


@pytest.mark.parametrize(
    ("text", "on"),
    [("1", True), ("true", True), ("YES", True), ("on", True),
     ("0", False), ("False", False), ("no", False), ("off", False)],
)  # fmt: skip
def test_flags_read_words(text: str, on: bool) -> None:
    assert collected(environment={"INVARLOCK_NO_PACK": text}).flag("no-pack") is on


@pytest.mark.parametrize("text", ["0", "no", "off", "false"])
@pytest.mark.parametrize("spec", [spec for spec in SETTINGS if spec.flag], ids=lambda s: s.name)
def test_every_flag_can_be_switched_off_in_environment_and_ini(spec: Any, text: str) -> None:
    for made in (collected(environment={spec.environment: text}), collected(ini={spec.dest: text})):
        assert made.text(spec.name) == text
        assert made.flag(spec.name) is False


def test_a_flag_given_on_the_command_line_is_on() -> None:
    assert collected(option={"invarlock_no_pack": True}).flag("no-pack")
    assert not collected(option={"invarlock_no_pack": False}).flag("no-pack")


def test_a_flag_that_is_neither_yes_nor_no_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        collected(environment={"INVARLOCK_NO_PACK": "maybe"}).flag("no-pack")
    assert "INVARLOCK_NO_PACK: 'maybe'" in caught.value.cause


@pytest.mark.parametrize(
    ("ci", "profile"), [("true", "ci"), ("1", "ci"), ("", "dev"), ("false", "dev"), ("0", "dev")]
)
def test_ci_in_the_environment_changes_the_default_profile(ci: str, profile: str) -> None:
    assert resolve_profile({}, collected(environment={"CI": ci})).name == profile


def test_ci_in_the_environment_changes_only_the_default() -> None:
    ci = {"CI": "true"}
    assert resolve_profile({"profile": "dev"}, collected(environment=ci)).name == "dev"
    chosen = collected({"invarlock_profile": "release"}, ci)
    assert resolve_profile({"profile": "dev"}, chosen).name == "release"


def test_ci_changes_nothing_but_what_hangs_on_the_profile(tmp_path: Path) -> None:
    value = {"profile": "ci_cpu", "dataset": {"provider": "pydoc"}}
    inside, outside = collected(environment={"CI": "true"}), collected()
    assert build_plan(value, inside, tmp_path) == build_plan(value, outside, tmp_path)
    assert build_policy(value, inside, {}) == build_policy(value, outside, {})


def test_settings_beat_the_suite_file_and_that_the_profile(tmp_path: Path) -> None:
    value = {"dataset": {"provider": "pydoc", "preview_n": 70, "final_n": 70, "seq_len": 100}}
    plan = build_plan(value, collected(), tmp_path)
    notes = plan.notes
    assert (plan.windows.preview_windows, plan.windows.seq_len, plan.windows.stride) == (
        70,
        100,
        100,
    )
    assert notes == ()
    plan = build_plan(
        value,
        collected({"invarlock_preview_windows": "5", "invarlock_final_windows": "5",
                   "invarlock_seq_len": "64", "invarlock_stride": "1000"}),
        tmp_path,
    )  # fmt: skip
    assert (plan.windows.final_windows, plan.windows.seq_len, plan.windows.stride) == (5, 64, 64)


def test_unequal_arms_are_refused_wherever_they_come_from(tmp_path: Path) -> None:
    for value, option in (
        ({"dataset": {"provider": "pydoc", "preview_n": 5, "final_n": 6}}, {}),
        ({"dataset": {"provider": "pydoc"}}, {"invarlock_final_windows": "7"}),
    ):
        with pytest.raises(ConfigError) as caught:
            build_plan(value, collected(option), tmp_path)
        assert caught.value.code == "UNEQUAL_ARMS"


@pytest.mark.parametrize("profile", ["ci", "release"])
def test_profiles_for_evidence_take_no_stand_in_for_data(tmp_path: Path, profile: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_plan({}, collected({"invarlock_profile": profile}), tmp_path)
    assert caught.value.code == "NO_DATASET"
    assert "pydoc" in caught.value.remedy


def test_dev_takes_the_shipped_text_and_says_so(tmp_path: Path) -> None:
    plan = build_plan({}, collected(), tmp_path)
    notes = plan.notes
    assert plan.source.provider == "pydoc"
    assert len(notes) == 1
    assert "pydoc" in notes[0]


@pytest.mark.parametrize("text", ["wikitext3", "local_jsonl", "local_jsonl:", "pydoc:x"])
def test_an_unknown_dataset_setting_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="--invarlock-dataset"):
        build_plan({}, collected({"invarlock_dataset": text}), tmp_path)


def test_a_relative_file_of_the_document_is_looked_for_beside_it(tmp_path: Path) -> None:
    value = {"dataset": {"provider": "local_jsonl", "file": "t.jsonl", "id_field": "doc"}}
    plan = build_plan(value, collected(), tmp_path)
    assert plan.source.locations == (str(tmp_path / "t.jsonl"),)
    assert plan.source.id_field == "doc"


@pytest.mark.parametrize(
    ("name", "value", "close"),
    [
        ("device", "cuda0", "cuda"),
        ("dtype", "float23", "float32"),
        ("determinism", "strikt", "strict"),
    ],
)
def test_choices_of_the_plan_name_the_nearest(
    tmp_path: Path, name: str, value: str, close: str
) -> None:
    settings = collected({f"invarlock_{name}": value, "invarlock_dataset": "pydoc"})
    with pytest.raises(ConfigError) as caught:
        build_plan({}, settings, tmp_path)
    assert f"{close!r}" in caught.value.remedy


def test_on_inconclusive_is_part_of_the_policy_and_checked() -> None:
    assert build_policy({}, collected({"invarlock_on_inconclusive": "xfail"}), {}).on_inconclusive == "xfail"  # fmt: skip
    with pytest.raises(ConfigError, match="xfail"):
        build_policy({}, collected({"invarlock_on_inconclusive": "xfial"}), {})


@pytest.mark.parametrize(("text", "threads"), [("3", 3), ("auto", "auto")])
def test_threads_are_a_number_or_auto(tmp_path: Path, text: str, threads: object) -> None:
    settings = collected({"invarlock_threads": text, "invarlock_dataset": "pydoc"})
    assert build_plan({"run": {"threads": 2}}, settings, tmp_path).threads == threads
