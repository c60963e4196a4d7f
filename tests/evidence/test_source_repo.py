"""The state of the user's repository: from git, else from a marker; nothing of where it lies."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.evidence.source_repo import (
    MARKER,
    MARKER_VARIABLE,
    public_uri,
    read_source_repo,
)
from pytest_invarlock.policy.resources import schema, strict_validator

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git(folder, *arguments):
    own = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *own, *arguments], check=True, capture_output=True)


@pytest.fixture
def repo(tmp_path, monkeypatch):
    if shutil.which("git") is None:
        pytest.skip("needs git")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    folder = tmp_path / "repo"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "a.txt").write_text("a")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "one")
    return folder


def is_valid(document):
    return strict_validator()(schema("source_repo")).is_valid(document)


def test_a_clean_repository_and_its_output_folder(repo):
    git(repo, "remote", "add", "origin", "https://me:secret@example.org/team/models.git")
    out = repo / "invarlock-out"
    out.mkdir()
    (out / "x").write_text("x")
    found = read_source_repo(repo, {}, leaving_out=out)
    assert found is not None
    assert is_valid(found)
    assert len(found["commit"]) == 40
    assert found["branch"] == "main"
    assert found["dirty"] is False
    assert found["uri"] == "git+https://example.org/team/models.git"
    assert found["commit"].startswith(found["describe"])


def test_a_changed_file_makes_it_dirty_and_a_folder_below_is_the_same_repository(repo):
    (repo / "a.txt").write_text("b")
    (repo / "tests").mkdir()
    found = read_source_repo(repo / "tests", {}, leaving_out=repo / "invarlock-out")
    assert found is not None
    assert found["dirty"] is True
    assert found["describe"].endswith("-dirty")
    assert "uri" not in found
    assert str(repo) not in json.dumps(found)


def test_without_git_or_marker_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert read_source_repo(tmp_path, {}) is None


@pytest.mark.parametrize(
    "text",
    [
        f"source_commit={COMMIT}\nsource_branch=main\nsource_dirty=false\n",
        f"source_commit: {COMMIT}\nsource_branch: main\nsource_dirty: 0\nother: x\n",
        json.dumps({"source_commit": COMMIT, "source_branch": "main", "source_dirty": False}),
    ],
)
def test_a_marker_stands_for_git(tmp_path, monkeypatch, text):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / MARKER).write_text(text)
    found = read_source_repo(tmp_path, {})
    assert found is not None
    assert is_valid(found)
    assert (found["origin"], found["commit"], found["branch"]) == ("marker", COMMIT, "main")
    assert found["dirty"] is False


@pytest.mark.parametrize("text", ["", "source_commit=abc\n", "{broken", "source_branch=main\n"])
def test_a_marker_without_a_commit_is_refused(tmp_path, monkeypatch, text):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "mine.txt").write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.txt: source_commit"):
        read_source_repo(tmp_path, {MARKER_VARIABLE: "mine.txt"})


def test_a_marker_that_is_named_and_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_source_repo(tmp_path, {MARKER_VARIABLE: "mine.txt"})


@pytest.mark.parametrize(
    ("remote", "uri"),
    [
        ("https://github.com/org/repo.git", "git+https://github.com/org/repo.git"),
        ("https://user:token@github.com/org/repo", "git+https://github.com/org/repo"),
        ("https://github.com:8443/org/repo?token=x#y", "git+https://github.com/org/repo"),
        ("git@github.com:org/repo.git", "git+ssh://github.com/org/repo.git"),
        ("ssh://me@git.example.org/org/repo", "git+ssh://git.example.org/org/repo"),
        ("git+https://a.org/b", "git+https://a.org/b"),
        ("file:///home/me/repo", None),
        ("/home/me/repo.git", None),
        ("../repo", None),
        ("workstation:repos/a", None),
        ("ssh://me@workstation/home/me/a", None),
        ("git@host.example.org:/home/me/repo", None),
        ("", None),
        ("https://[broken", None),
    ],
)
def test_only_a_public_address_is_kept(remote, uri):
    assert public_uri(remote) == uri
    if uri is not None:
        base = {"format": "invarlock-source-repo-v1", "origin": "git", "commit": COMMIT,
                "branch": None, "describe": None, "dirty": None}  # fmt: skip
        assert is_valid(base | {"uri": uri})
