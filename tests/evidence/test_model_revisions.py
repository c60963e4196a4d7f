"""Which Hub commits leave the machine: those of what was measured, and of public data alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pytest_invarlock.evidence.environment import (
    Permissions,
    environment_document,
    foreign_guards_asked,
    permissions_of,
)
from pytest_invarlock.evidence.model_revisions import packed_revisions
from pytest_invarlock.policy.resources import schema, strict_validator

STATE = {
    "generated_at": "2026-11-20T12:00:00+00:00",
    "suite": "s",
    "models": {
        "org/used": {"revision": "aaa", "resolved_at": "t", "gated": False, "path": "/home/me/x"},
        "org/other": {"revision": "bbb"},
    },
    "datasets": {"org/public": {"revision": "ccc"}, "org/secret": {"revision": "ddd"}},
}


def record(*, shareable: bool = True, dataset: str = "org/public", **observed: Any) -> Any:
    source = {"provider": "hf_text", "shareable": shareable, "dataset_name": dataset}
    facts = SimpleNamespace(
        baseline={"revision": "aaa"}, subject={}, plan={"source": source}, attested={}
    )
    return SimpleNamespace(facts=facts, observations=observed)


def test_only_what_was_measured_and_may_be_named_is_packed():
    found = packed_revisions(STATE, [record()])
    assert found is not None
    assert strict_validator()(schema("model_revisions")).is_valid(found)
    assert found["models"] == {"org/used": {"revision": "aaa", "resolved_at": "t", "gated": False}}
    assert found["datasets"] == {"org/public": {"revision": "ccc"}}


def test_data_that_is_not_shareable_is_not_named():
    found = packed_revisions(STATE, [record(shareable=False, dataset="org/secret")])
    assert found is not None
    assert found["datasets"] == {}


def test_without_a_hub_model_there_is_no_document():
    assert packed_revisions(None, [record()]) is None
    assert packed_revisions({"models": {}, "datasets": {}}, [record()]) is None


def test_the_environment_says_with_what_was_measured_and_what_was_allowed():
    cpu = {"device": "cpu", "capability": "AVX2"}
    flags = {
        "mode": "strict", "threads": 1, "interop_threads": 2, "deterministic_algorithms": True,
        "cudnn_benchmark": False, "tf32_matmul": False, "tf32_cudnn": False,
        "cublas_workspace": None,
    }  # fmt: skip
    records = [record(device=cpu, determinism=flags | {"seed": n}) for n in range(3)]
    found = environment_document([*records, record()], Permissions(allow_network=True))
    assert strict_validator()(schema("environment")).is_valid(found)
    assert found["devices"] == [cpu]
    assert found["determinism"] == [flags]
    assert found["runtime"]["allow_network"] is True
    assert found["runtime"]["allow_remote_code"] is False
    assert found["runtime"]["allow_third_party_plugins"] is False
    assert permissions_of([found]) == Permissions(allow_network=True)
    records[0].facts.attested["theirs"] = {}
    assert foreign_guards_asked(records)
