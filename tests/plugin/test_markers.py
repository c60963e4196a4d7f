"""Marker tests in a user's own repository."""

from __future__ import annotations

import json

import pytest

BODY = """
import pytest

@pytest.mark.invarlock(
    baseline="builtin:llama", edit={"name": "quant_rtn", "plan": {"bitwidth": 8, "group_size": 32}},
    tier="text-only.yaml", dataset="pydoc", seq_len=48, preview_n=20, final_n=20, threads=1,
)
class TestInt8:
    def test_it_keeps_quality(self, invarlock):
        invarlock.assert_passes()
        assert 0.9 < invarlock.primary_metric.ratio.lower < invarlock.primary_metric.ratio.upper < 1.05
        assert invarlock.guards["invariants"].passed
        assert invarlock.certificate["decision"]["outcome"] == "PASS"
        assert invarlock.record.facts.edit["n_tensors_changed"] == 28

    def test_models_are_lent(self, invarlock_baseline, invarlock_subject):
        ours = invarlock_baseline.model.layers[0].mlp.down_proj.weight
        theirs = invarlock_subject.model.layers[0].mlp.down_proj.weight
        assert not ours.equal(theirs)

    def test_windows_and_policy(self, invarlock_windows, invarlock_policy, invarlock_adapter):
        assert len(invarlock_windows.final) == len(invarlock_windows.preview) == 20
        assert invarlock_policy.primary_metric.ratio_limit == 1.10
        assert invarlock_adapter.name == "hf_auto"
"""


def test_fixtures_give_the_comparison_the_models_and_the_policy(repository):
    body = BODY.replace('tier="text-only.yaml", ', "")
    repository.pytester.makepyfile(test_int8=body)
    result = repository.run("--strict-markers", "-W", "error", "test_int8.py")
    result.assert_outcomes(passed=3)
    assert repository.verdict()["verdict"] == "PASS"
    assert repository.verdict()["suite"] == "markers"
    assert (repository.latest / "evidence_pack").is_dir()
    assert repository.events().count("baseline_load") == 1


def test_a_failing_comparison_fails_its_test_with_the_numbers(repository):
    repository.pytester.makepyfile(
        test_pruned=BODY.replace('"quant_rtn"', '"magnitude_prune"').replace(
            '{"bitwidth": 8, "group_size": 32}', '{"sparsity": 0.7}'
        )
    )
    result = repository.run("test_pruned.py", "-k", "keeps")
    result.assert_outcomes(failed=1, deselected=2)
    result.stdout.fnmatch_lines(["E *FAIL primary_metric: ratio 2.* limit 1.1*"])
    assert repository.verdict()["verdict"] == "FAIL"


def test_a_changed_lent_model_is_an_error_and_the_next_test_gets_a_fresh_one(repository):
    repository.pytester.makepyfile(
        test_lent=BODY
        + """
    def test_a_vandal(self, invarlock_baseline):
        invarlock_baseline.model.layers[0].mlp.down_proj.weight.data.zero_()

    def test_z_after(self, invarlock):
        invarlock.assert_passes()
"""
    )
    result = repository.run("test_lent.py", "-k", "vandal or after")
    result.assert_outcomes(passed=2, errors=1, deselected=3)
    result.stdout.fnmatch_lines(["*the test changed the lent baseline model*"])
    assert repository.events().count("baseline_load") == 2


def test_fixtures_of_the_same_name_replace_policy_and_windows(repository):
    repository.pytester.makepyfile(
        test_override=BODY
        + """
@pytest.fixture
def invarlock_policy(invarlock_policy):
    import dataclasses
    limits = dataclasses.replace(invarlock_policy.primary_metric, ratio_limit=1.0000001)
    return dataclasses.replace(invarlock_policy, primary_metric=limits)
"""
    )
    result = repository.run("test_override.py", "-k", "keeps")
    result.assert_outcomes(failed=1, deselected=2)
    result.stdout.fnmatch_lines(["*limit 1*"])


def test_an_edit_is_applied_undone_and_saved(repository):
    repository.pytester.makepyfile(
        test_saving=BODY
        + """
    def test_tried(self, invarlock_baseline, invarlock_edit, tmp_path):
        weight = invarlock_baseline.model.layers[0].mlp.down_proj.weight
        before = weight.clone()
        edit = invarlock_edit("magnitude_prune", sparsity=0.5)
        with edit as model:
            assert (model.model.layers[0].mlp.down_proj.weight == 0).float().mean() >= 0.5
        assert weight.equal(before)
        from transformers import AutoModelForCausalLM
        saved = AutoModelForCausalLM.from_pretrained(edit.save(tmp_path / "pruned"))
        assert (saved.model.layers[0].mlp.down_proj.weight == 0).float().mean() >= 0.5
"""
    )
    repository.run("test_saving.py", "-k", "test_tried").assert_outcomes(passed=1, deselected=3)


def test_a_fixture_without_the_marker_says_what_to_add(repository):
    repository.pytester.makepyfile(test_it="def test_it(invarlock):\n    pass\n")
    result = repository.run("test_it.py")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*add @pytest.mark.invarlock(baseline=*"])


def test_a_session_that_compared_nothing_has_no_verdict(repository):
    repository.pytester.makepyfile(test_int8=BODY)
    result = repository.run("test_int8.py", "-k", "windows")
    result.assert_outcomes(passed=1, deselected=2)
    assert "invarlock markers" not in result.stdout.str()
    assert not (repository.latest / "final_verdict.json").exists()


def test_every_draw_that_is_asked_for_is_measured_and_judged(repository):
    repository.pytester.makepyfile(test_int8=BODY)
    result = repository.run("test_int8.py", "-k", "keeps", "--invarlock-repeats=2")
    result.assert_outcomes(passed=1, deselected=2)
    records = sorted((repository.latest / "records").rglob("*.record.json"))
    assert [path.name for path in records] == ["run_0.record.json", "run_1.record.json"]
    assert repository.verdict()["verdict"] == "PASS"


def test_several_draws_of_ones_own_windows_are_refused(repository):
    repository.pytester.makepyfile(
        test_int8=BODY
        + """
    @pytest.fixture
    def invarlock_windows(self, invarlock_windows):
        from dataclasses import replace
        return replace(invarlock_windows, notes=("mine",))
"""
    )
    result = repository.run("test_int8.py", "-k", "keeps", "--invarlock-repeats=2")
    result.assert_outcomes(errors=1, deselected=2)
    result.stdout.fnmatch_lines(["*2 draws of windows that were given ready-made*"])


MONITORED = (
    BODY.replace('"quant_rtn"', '"magnitude_prune"')
    .replace('{"bitwidth": 8, "group_size": 32}', '{"sparsity": 0.7}')
    .partition("        invarlock.assert_passes()")[0]
    + """
        assert invarlock.checks["tail"].outcome == "WARN"
        with pytest.raises(Exception, match="FAIL primary_metric"):
            invarlock.assert_passes()
"""
)


def test_a_check_that_only_monitors_warns_and_is_no_reason_to_fail(repository):
    """Of 20 windows the tail's rules only monitor, and pruning harms many."""
    repository.pytester.makepyfile(test_pruned=MONITORED)
    result = repository.run("test_pruned.py")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*WARN tail: *windows above 0.693 nats*only monitor*"])


LENT = (
    BODY.partition("    def test_it_keeps")[0]
    + """
    def test_first(self, invarlock_baseline):
        CHANGE

    def test_second(self, invarlock):
        assert invarlock.primary_metric.passed
"""
)


@pytest.mark.parametrize(
    "change",
    [
        "invarlock_baseline.model.rotary_emb.inv_freq.mul_(0.5)",
        "invarlock_baseline.model.layers[0].register_forward_hook(lambda *a: None)",
        "invarlock_baseline.model.layers[0].train()",
    ],
)
def test_what_no_checkpoint_holds_is_proved_as_well(repository, change):
    repository.pytester.makepyfile(test_lent=LENT.replace("CHANGE", change))
    result = repository.run("test_lent.py")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*test_first*changed the lent baseline*"])
    assert repository.events().count("baseline_load") == 2


def test_a_comparison_inside_an_open_edit_is_an_error_and_no_record(repository):
    repository.pytester.makepyfile(
        test_open=BODY.partition("    def test_it_keeps")[0]
        + """
    def test_open(self, invarlock_edit, request):
        with invarlock_edit("quant_rtn", bitwidth=3, scope="attn"):
            request.getfixturevalue("invarlock")
"""
    )
    result = repository.run("test_open.py")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*changed before it was measured*"])
    (record,) = (repository.latest / "records").rglob("*.record.json")
    assert json.loads(record.read_text())["facts"]["error"] == "BASELINE_CHANGED"
