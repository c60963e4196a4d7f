"""``invarlock_edit``: entered, refused inside itself, saved; and what its errors show."""

from __future__ import annotations

import pytest

MARKER = """
import pytest
from pytest_invarlock.errors import EditError

pytestmark = pytest.mark.invarlock(
    baseline="builtin:llama", edit={"name": "noop"},
    dataset="pydoc", seq_len=64, preview_n=24, final_n=24, threads=1,
)

def weight(model):
    return model.model.layers[0].mlp.down_proj.weight
"""


def test_a_refused_inner_edit_does_not_keep_the_outer_one_applied(repository):
    repository.pytester.makepyfile(
        test_it=MARKER
        + """
def test_nested(invarlock_baseline, invarlock_edit):
    before = weight(invarlock_baseline).clone()
    edit = invarlock_edit("magnitude_prune", sparsity=0.5)
    with edit as model:
        for inner in (edit, invarlock_edit("noop")):
            with pytest.raises(EditError, match="carries an edit"):
                with inner:
                    pytest.fail("two edits at once")
        with pytest.raises(EditError, match="carries an edit"):
            invarlock_edit("missing_tensors").save("inner")
        assert not weight(model).equal(before)
    assert weight(invarlock_baseline).equal(before)
"""
    )
    result = repository.run("test_it.py")
    result.assert_outcomes(passed=1)
    assert not (repository.path / "inner").exists()
    assert repository.events().count("baseline_load") == 1


def test_an_edit_that_is_never_left_is_an_error_of_its_own_test(repository):
    repository.pytester.makepyfile(
        test_it=MARKER
        + """
def test_a(invarlock_edit):
    invarlock_edit("noop").__enter__()

def test_b(invarlock):
    assert invarlock.checks
"""
    )
    result = repository.run("test_it.py")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*test_a*changed the lent baseline model*"])


def test_a_structural_fault_is_saved_as_a_checkpoint_that_lacks_its_tensors(repository):
    repository.pytester.makepyfile(
        test_it=MARKER
        + """
def test_saved(invarlock_edit, tmp_path):
    from safetensors import safe_open
    saved = invarlock_edit("missing_tensors").save(tmp_path / "new" / "damaged")
    with safe_open(saved / "model.safetensors", "pt") as file:
        blocks = {name.split(".")[2] for name in file.keys() if ".layers." in name}
    assert blocks == {"0", "1", "2"}
    assert (saved / "tokenizer.json").is_file()
"""
    )
    repository.run("test_it.py").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("target", "shown", "code"),
    [
        ("there", "there: exists already", "CHECKPOINT_EXISTS"),
        ("there/file/below", "there/file/below: the checkpoint", "CHECKPOINT_NOT_WRITTEN"),
        ("../outside", "outside: exists already", "CHECKPOINT_EXISTS"),
    ],
)
def test_a_refused_save_shows_no_absolute_path(repository, target, shown, code):
    """Errors end in junit files, which people upload."""
    (repository.path / "there").mkdir()
    (repository.path / "there" / "file").write_text("mine")
    (repository.path.parent / "outside").mkdir(exist_ok=True)
    repository.pytester.makepyfile(
        test_it=MARKER
        + f"""
def test_refused(invarlock_edit):
    import os
    try:
        invarlock_edit("noop").save(os.path.abspath({target!r}))
    except EditError as error:
        assert error.code == {code!r}
        raise
"""
    )
    result = repository.run("test_it.py", "--junitxml=junit.xml")
    result.assert_outcomes(failed=1)
    junit = (repository.path / "junit.xml").read_text()
    assert shown in junit
    assert str(repository.path.parent) not in junit
    assert (repository.path / "there" / "file").read_text() == "mine"
