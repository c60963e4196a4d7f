"""Paths in texts that leave the machine: relative below the current folder, else a name."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_invarlock.path_names import without_absolute_paths


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{here}/a b/c.yaml: no such file", "a b/c.yaml: no such file"),
        ("{here}", "."),
        ("{here}2/a/b.yaml", "b.yaml"),
        ("/home/alice smith/m/config.json: no such", "config.json: no such"),
        ("{home}/m/config.json", "config.json"),
        ("{home}", "~"),
        ("/home/alice", "~"),
        ("/Users/alice: gone", "~: gone"),
        ("a:/home/alice/x", "a:x"),
        ("file:///home/alice/m", "m"),
        ("file://localhost/home/alice/m", "m"),
        ("../home_alice/m/x.json", "x.json"),
        ("./../home_alice/x", "x"),
        ("a/../../home_alice/x", "x"),
        ("~alice/x", "x"),
        ("'/srv/alice smith/x'", "'x'"),
        ("see /a/b and /c/d.", "see b and d."),
        ("/home/alice, /home/bob", "~, ~"),
        # What is no absolute path stays as it is.
        ("./a/b and a/b", "./a/b and a/b"),
        ("https://huggingface.co/org/model", "https://huggingface.co/org/model"),
        ("org/model@main, builtin:llama", "org/model@main, builtin:llama"),
        ("1/2 and/or /x", "1/2 and/or /x"),
    ],
)
def test_what_is_shown_of_a_text(
    text: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, home = tmp_path / "my work", tmp_path / "bob lee"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    assert without_absolute_paths(text.format(here=here, home=home)) == shown


def test_the_root_as_current_folder_makes_nothing_relative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", "/")
    assert without_absolute_paths("/home/alice/m/x: gone") == "x: gone"


def test_a_known_path_is_cut_whatever_it_holds() -> None:
    path = "/srv/alice (work): 'all'/m.json"
    assert without_absolute_paths(f"{path}: gone", [path]) == "m.json: gone"
