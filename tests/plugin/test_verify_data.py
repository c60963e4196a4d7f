"""``invarlock verify --data``: the owner of the data draws a pack's windows again."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest

from pytest_invarlock.cli import main
from pytest_invarlock.evidence.keys import fingerprint, load_private_key, user_signing_key_path
from pytest_invarlock.evidence.layout import CONTROL_FILES, SIGNER_KEY
from pytest_invarlock.evidence.manifest import parse_manifest
from pytest_invarlock.evidence.pack import seal_pack
from tests.conftest import random_text
from tests.plugin.conftest import HEAD, TEXT_ONLY
from tests.plugin.test_resealed_packs import remade, with_arms

SECRET = "the-canary-of-the-owner"
ROWS = [{"text": f"{SECRET} {random_text(seed, 90)}"} for seed in range(70)]
PRIVATE = HEAD.replace("provider: pydoc", "provider: {kind: local_jsonl, file: texts.jsonl}")
RECORD = "records/builtin-llama/noop/run_1.record.json"


@dataclass(frozen=True)
class Sealed:
    """A run of private data: the files of its pack, and what its owner has beside it."""

    files: dict
    header: object
    key: object
    salt: bytes
    suite: str


@pytest.fixture(scope="session")
def kept_runs():
    return []


@pytest.fixture
def run(repository, kept_runs):
    """Made once: nobody changes it in place."""
    if not kept_runs:
        write_data(repository.path, ROWS)
        repository.run(repository.suite("noop", "rtn", head=PRIVATE), "--invarlock-repeats=2")
        pack = repository.latest / "evidence_pack"
        files = {
            path.relative_to(pack).as_posix(): path.read_bytes()
            for path in pack.rglob("*")
            if path.is_file()
        }
        kept_runs.append(
            Sealed(
                {k: v for k, v in files.items() if k not in CONTROL_FILES and k != SIGNER_KEY},
                parse_manifest(files["manifest.json"]).header,
                load_private_key(user_signing_key_path()),
                (repository.latest / "state" / "salt").read_bytes(),
                (repository.path / "small.invarlock.yaml").read_text(),
            )
        )
    return kept_runs[0]


def write_data(folder, rows):
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def verify(run, tmp_path, capsys):
    """Seals the run, or what ``forge`` makes of it, and verifies it with ``--data``."""

    def verified(forge=None, *, rows=ROWS, suite=None, salt=None, more=(), leave_out=()):
        files, header = (run.files, run.header) if forge is None else forge(run)
        seal_pack(tmp_path / "pack", files, header, run.key)
        (tmp_path / "text-only.yaml").write_text(TEXT_ONLY)
        (tmp_path / "own.yaml").write_text(suite or run.suite)
        (tmp_path / "salt").write_bytes(run.salt if salt is None else salt)
        if rows is not None:
            write_data(tmp_path, rows)
        options = {"--data": tmp_path / "own.yaml", "--salt": tmp_path / "salt"}
        given = [f"{name}={value}" for name, value in options.items() if name not in leave_out]
        signer = f"--expected-fingerprint={fingerprint(run.key.public_key())}"
        status = main(["verify", str(tmp_path / "pack"), signer, *given, *more])
        out, err = capsys.readouterr()
        assert SECRET not in out + err
        return status, out, err

    return verified


def found(out):
    """The findings of ``--json`` about the data, by path."""
    told = json.loads(out)["findings"]
    return {f["path"]: (f["code"], f["message"]) for f in told if "DATA" in f["code"]}


def test_the_owner_of_the_data_draws_the_same_windows_again(verify, monkeypatch):
    # What was drawn stands in the records.
    monkeypatch.setenv("INVARLOCK_SEQ_LEN", "40")
    status, out, _ = verify()
    assert status == 0, out
    assert (
        "DATA_CHECKED  note: data: windows of 4 records drawn again: "
        "digest, keyed hashes, overlap, documents, tokens\nVALID, verdict PASS"
    ) in out


def test_a_changed_document_is_found_in_every_record(verify):
    changed = [*ROWS[:-1], {"text": ROWS[-1]["text"] + " " + random_text(999, 4)}]
    status, out, _ = verify(rows=changed, more=["--json"])
    assert status == 7
    paths = found(out)
    assert len(paths) == 4
    assert {code for code, _ in paths.values()} == {"DATA_MISMATCH"}
    assert all("data.digest, plan.data_digest" in message for _, message in paths.values())


def test_what_the_suite_states_otherwise_is_a_note(verify, monkeypatch):
    monkeypatch.setenv("INVARLOCK_SEQ_LEN", "40")
    status, out, _ = verify()
    assert status == 0
    told = "drawn as the records state, and the suite states otherwise: seq_len"
    assert f"DATA_OTHER_SETTINGS  note: {told}" in out


def test_a_shipped_suite_is_named_and_its_data_are_others(verify):
    status, out, _ = verify(more=["--data=demo", "--json"])
    assert status == 7
    assert {code for code, _ in found(out).values() if code != "DATA_OTHER_SETTINGS"} == {
        "DATA_MISMATCH"
    }


def test_a_name_that_no_suite_has_is_a_missing_file(verify):
    status, _, said = verify(more=["--data=dema"])
    assert (status, "dema" in said) == (3, True)


def test_a_setting_that_is_no_word_is_refused(verify, monkeypatch):
    monkeypatch.setenv("INVARLOCK_MODE", "bogus")
    status, _, said = verify()
    assert (status, "INVARLOCK_MODE" in said) == (2, True)


def test_another_runs_salt_is_told_from_other_data(verify):
    status, out, _ = verify(salt=b"ab" * 32)
    assert status == 7
    assert "SALT_MISMATCH  no window's keyed hash agrees" in out
    assert "DATA_" not in out
    assert "INVALID" not in out
    assert "NOT SHOWN: the pack is valid; its windows are not shown to be these (exit 7)" in out


def test_with_other_data_nothing_is_said_of_the_salt(verify):
    status, out, _ = verify(rows=ROWS[::2], salt=b"ab" * 32)
    assert status == 7
    assert "SALT_MISMATCH" not in out
    assert out.count("observations.window_hmacs") == 4


def test_one_record_with_hashes_of_its_own_is_not_about_the_salt(verify):
    other = with_hashes(lambda arms: {arm: ["0" * 32] * len(arms[arm]) for arm in arms})
    status, out, _ = verify(other, more=["--json"])
    assert status == 7
    assert list(found(out)) == [RECORD]
    assert found(out)[RECORD][1].endswith(
        "differ: observations.window_hmacs, unless the salt of its run was not given"
    )


def test_of_several_salts_one_must_fit(verify, tmp_path):
    (tmp_path / "other").write_text("cd" * 32)
    status, out, _ = verify(more=[f"--salt={tmp_path / 'other'}"])
    assert status == 0, out


def stated(**data):
    """Every record of draw 1 states other ``data``, and all that follows from it is made again."""

    def change(facts):
        return replace(facts, data=dict(facts.data) | data) if facts.draw else facts

    return lambda run: remade(run.files, run.header, change)


def with_hashes(hashes):
    def forge(run):
        files = dict(run.files)
        record = json.loads(files[RECORD])
        record["observations"]["window_hmacs"] = hashes(record["observations"]["window_hmacs"])
        return remade(
            files | {RECORD: json.dumps(record).encode()}, run.header, lambda facts: facts
        )

    return forge


def in_draw_1(change):
    return lambda run: remade(run.files, run.header, lambda f: change(f) if f.draw else f)


FORGERIES = {
    "data.overlap_fraction": stated(overlap_fraction=0.01),
    "data.duplicate_fraction": stated(duplicate_fraction=0.3),
    "data.n_documents_planned": stated(n_documents_planned={"preview": 9, "final": 10}),
    "data.seq_len": stated(seq_len=49),
    "data.digest": stated(digest="sha256:" + "0" * 64),
    "arms.final.documents": in_draw_1(with_arms(documents=lambda one: one.documents + 1)),
    "arms.preview.tokens": in_draw_1(with_arms(tokens=lambda one: one.tokens - 1)),
    "plan.source": in_draw_1(
        lambda facts: replace(
            facts, plan=dict(facts.plan) | {"source": {**facts.plan["source"], "dedup": True}}
        )
    ),
    "data.n_documents": in_draw_1(
        lambda facts: replace(
            facts, arms={k: replace(v, **firsts(v)) for k, v in facts.arms.items()}
        )
    ),
    "observations.window_hmacs": with_hashes(
        lambda arms: {**arms, "preview": [*arms["preview"][1:], "0" * 32]}
    ),
}


def firsts(arm):
    return {name: values[:9] for name, values in arm.arrays().items()}


@pytest.mark.parametrize("part", FORGERIES)
def test_what_a_sealed_record_states_otherwise_is_named(verify, part, request):
    status, out, _ = verify(FORGERIES[part], more=["--json"])
    if part == "data.n_documents":
        # Fewer windows than planned: the parts that were left out are missed.
        part = "arms.final.documents, arms.final.tokens"
    assert status == 7, out
    code, message = found(out)[RECORD]
    assert code == "DATA_MISMATCH", out
    assert part in message.partition(": ")[2]
    # Records of the other draw are as they were.
    assert RECORD.replace("run_1", "run_0") not in found(out)


def test_a_record_measured_without_a_salt_says_so(verify):
    status, out, _ = verify(with_hashes(lambda _: None))
    assert status == 0, out
    assert f"DATA_WITHOUT_HASHES  note: {RECORD}: was measured without a salt" in out
    assert "DATA_CHECKED" in out


def given_windows(facts):
    source = {"provider": "given", "shareable": False}
    return replace(facts, plan=dict(facts.plan) | {"source": source})


def of_a_foreign_adapter(facts):
    return replace(facts, baseline=dict(facts.baseline) | {"adapter": "theirs"})


UNCHECKED = {
    "another model": ({"suite": True}, "the suite names no model 'builtin:llama'"),
    "no data": ({"rows": None}, "DATA_UNREADABLE: "),
    "too little data": ({"rows": ROWS[:4]}, "DATA_TOO_SMALL: "),
    "ready-made windows": ({"forge": in_draw_1(given_windows)}, "were given ready-made"),
    "adapter": ({"forge": in_draw_1(of_a_foreign_adapter)}, "another package's adapter"),
}


@pytest.mark.parametrize("case", UNCHECKED)
def test_what_cannot_be_drawn_again_is_no_pass(verify, run, case):
    given, reason = UNCHECKED[case]
    if "suite" in given:
        given = {"suite": run.suite.replace("builtin:llama", "builtin:gpt2")}
    status, out, _ = verify(**given, more=["--json"])
    assert status == 7
    code, message = found(out)[RECORD]
    assert code == "DATA_UNCHECKED"
    assert message.startswith("windows are not drawn again: ")
    assert reason in message
    assert "DATA_CHECKED" not in out


USAGE = {
    "no salt": ({"leave_out": ["--salt"]}, 2, "state/salt in the folder of the run"),
    "no data": ({"leave_out": ["--data"]}, 2, "give --data=SUITE as well"),
    "no suite": ({"more": ["--data=missing.yaml"]}, 3, "missing.yaml"),
    "no salt file": ({"more": ["--salt=missing"]}, 3, "missing"),
    "not a salt": ({"salt": b"ab" * 31}, 2, "NO_SALT_FILE"),
    "not a suite": ({"suite": "models: 3\n"}, 2, "own.yaml"),
}


@pytest.mark.parametrize("case", USAGE)
def test_options_that_cannot_be_used(verify, case):
    given, expected, told = USAGE[case]
    status, out, err = verify(**given)
    assert (status, out) == (expected, "")
    assert told in err


def test_a_certificate_alone_holds_no_windows(verify, tmp_path, capsys):
    verify(leave_out=["--data", "--salt"])
    report = tmp_path / "pack/reports/builtin-llama/noop/run_0/evaluation.report.json"
    options = [f"--data={tmp_path / 'own.yaml'}", f"--salt={tmp_path / 'salt'}"]
    assert main(["verify", str(report), *options]) == 2
    assert "verify the pack that holds it" in capsys.readouterr().err


def test_data_is_read_only_for_a_pack_that_is_valid_without_it(verify, monkeypatch):
    monkeypatch.setattr(
        "pytest_invarlock.data_check.check.check_data", lambda *_: pytest.fail("was read")
    )
    status, out, _ = verify(lambda run: (run.files | {"results/x.md": b""}, run.header))
    assert (status, "UNEXPLAINED_FILE" in out) == (7, True)


def test_both_spellings_take_the_options(verify, tmp_path, capsys):
    verify(leave_out=["--data", "--salt"])
    pack = str(tmp_path / "pack")
    arguments = ["--data", str(tmp_path / "own.yaml"), "--salt", str(tmp_path / "salt")]
    # Nobody trusted the signer: the data is left alone.
    assert main(["evidence-pack", "verify", pack, *arguments]) == 5
    assert "DATA" not in capsys.readouterr().out
