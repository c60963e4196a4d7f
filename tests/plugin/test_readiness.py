"""Before a run: what a session is refused for, what workers are told, what --invarlock-plan prints."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pytest_invarlock.doctor.dataset
import pytest_invarlock.preflight.planned  # noqa: F401
from pytest_invarlock.activation import WORKER_KEY, Activation, VirtualSuite
from pytest_invarlock.policy.settings import Setting, Settings
from pytest_invarlock.policy.suite import Suite, load_suite_file
from pytest_invarlock.preflight import outlook
from pytest_invarlock.preflight.revisions import Pins
from pytest_invarlock.readiness import check_ready, named_suites
from pytest_invarlock.resumption import Resumption
from pytest_invarlock.run_directory import open_run_directory
from pytest_invarlock.session import RunController
from pytest_invarlock.workbench import Workbench

from .conftest import HEAD, TEXT_ONLY, suite_text

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = HEAD.replace('"builtin:llama"', "org/tiny")


def made(folder: Path, head: str = HEAD, **settings: str) -> tuple[Any, Activation]:
    """A configuration of pytest as far as it is asked, and the activation of one suite file."""
    (folder / "text-only.yaml").write_text(TEXT_ONLY)
    path = folder / "small.invarlock.yaml"
    path.write_text(suite_text("noop", head=head))
    given = Settings(
        {name.replace("_", "-"): Setting((value,), "--x") for name, value in settings.items()}
    )
    suite = load_suite_file(path, given, folder)
    config = SimpleNamespace(
        getoption=lambda name, default: ["popen"] * 3 if name == "tx" else default,
        invocation_params=SimpleNamespace(dir=folder),
    )
    activation = Activation(given, folder / "out", "session", "20260101T000000Z")
    activation.file_suites.append(suite)
    return config, activation


def test_an_unpinned_model_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config, activation = made(tmp_path, HUB.replace("profile: dev", "profile: ci"))
    with pytest.raises(pytest.UsageError, match=r"org/tiny: .* \[REVISION_UNPINNED\]$"):
        check_ready(config, activation)


def test_memory_counts_for_every_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, activation = made(tmp_path)
    check_ready(config, activation)
    assert activation.pins == {"models": {}, "datasets": {}, "document": None}
    monkeypatch.setattr(outlook, "device_memory", lambda _: outlook.DeviceMemory("cpu", 1_000_000))
    with pytest.raises(pytest.UsageError, match=r"each in 3 workers .* \[MEMORY_SHORT\]$"):
        check_ready(config, activation)


def test_only_the_models_that_were_asked_for_are_looked_at(tmp_path: Path) -> None:
    two = HEAD.replace('["builtin:llama"]', '["builtin:llama", "org/tiny"]')
    _, activation = made(tmp_path, two)
    suite = activation.file_suites.pop()
    selector = f"{suite.node_prefix}::builtin:llama::noop::primary_metric"
    activation.virtual.append(VirtualSuite(suite, (selector,)))
    assert [pair.name for pair in named_suites(activation)[0].pairs] == ["builtin:llama"]


def test_workers_load_what_the_controller_pinned(tmp_path: Path) -> None:
    _, activation = made(tmp_path, HUB)
    suite: Suite = activation.file_suites[0]
    document = {"generated_at": "now", "models": {"org/tiny": {"revision": COMMIT}}}
    activation.pins = Pins({"org/tiny": f"org/tiny@{COMMIT}"}, {}, document).plain()
    node = SimpleNamespace(workerinput={})
    RunController(SimpleNamespace(), activation).pytest_configure_node(node)  # type: ignore[arg-type]
    workbench = Workbench(
        out=tmp_path / "out", session="s", stamp="20260101T000000Z", worker="gw0", workers=1,
        allow_network=False, allow_remote_code=False,
        pins=Pins.read(node.workerinput[WORKER_KEY]["pins"]), report_progress=lambda *_: None,
        resumption=Resumption(None, "gw0", 1, False),
    )  # fmt: skip
    run = workbench.suite_run(suite)
    assert (run.state / "model_revisions.json").is_file()
    bench = workbench.bench(run, suite.pairs[0], suite.plan)
    assert (bench.pair.name, bench.pair.baseline) == ("org/tiny", f"org/tiny@{COMMIT}")
    # Nothing is written where nothing was resolved.
    workbench.pins = Pins()
    other = open_run_directory(tmp_path / "out", "other", "20260101T000000Z", "s")
    workbench.pins.write(other.state, "other")
    assert not (other.state / "model_revisions.json").exists()


def test_a_plan_is_printed_and_nothing_is_loaded_or_written(
    repository: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> None:
        pytest.fail("a model is loaded")

    monkeypatch.setattr("pytest_invarlock.adapters.hf_adapter.load_checkpoint", load)
    named = repository.suite("noop", "rtn")
    result = repository.run(named, "--invarlock-plan", "-k", "rtn")
    assert result.ret == pytest.ExitCode.OK
    text = result.stdout.str()
    assert "plan small: 1 models × 2 scenarios, 2 measurements, " in text
    assert "  time unknown until the first run" in text
    assert "  memory builtin:llama: " in text
    assert "::noop" not in text
    assert not (repository.path / "invarlock-out").exists()
