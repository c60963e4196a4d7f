"""What a session would need, beside what there is: gathered before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_invarlock.adapters.registry import BUILT_IN_ADAPTERS
from pytest_invarlock.adapters.remote_code import runs_own_code
from pytest_invarlock.errors import ConfigError, ModelLoadError
from pytest_invarlock.policy.deploy_limits import SKIPPING_PROFILE
from pytest_invarlock.policy.deploy_names import DEPLOY, SCHEMES
from pytest_invarlock.preflight.local import local_source
from pytest_invarlock.preflight.machine import (
    DeviceMemory,
    as_bytes,
    device_memory,
    free_disk,
    free_memory,
)
from pytest_invarlock.preflight.needs import (
    Checkpoint,
    MemoryNeed,
    kept_bytes,
    memory_need,
    read_checkpoint,
)
from pytest_invarlock.preflight.pinning import Pinning, gathered, references

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_invarlock.plan import Pair
    from pytest_invarlock.policy.settings import Settings
    from pytest_invarlock.policy.suite import Suite
    from pytest_invarlock.preflight.revisions import Pins

OVERRIDE = "or give --invarlock-no-preflight, should the estimate be wrong"


@dataclass(slots=True)
class Outlook:
    """What was found; ``problems`` are what a session is refused for, the first of them told.

    ``memory`` and ``disk`` are by suite's node prefix and model's name; None where a checkpoint is
    not here or not readable. ``free_host`` and ``free_disk`` are bytes, None where unknown.
    """

    pinning: Pinning
    device: DeviceMemory | None = None
    free_host: int | None = None
    free_disk: int | None = None
    workers: int = 1
    memory: dict[tuple[str, str], MemoryNeed | None] = field(default_factory=dict)
    disk: dict[tuple[str, str], int | None] = field(default_factory=dict)
    problems: list[ConfigError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def pins(self) -> Pins:
        """What the workers load."""
        return self.pinning.pins()


def look_ahead(
    suites: Sequence[Suite],
    settings: Settings,
    out: Path,
    root: Path,
    *,
    workers: int = 1,
    may_ask: bool = True,
) -> Outlook:
    """Pin revisions, look for code of models' own, and estimate memory and disk.

    Headers and configurations are read, the Hub is asked where that is allowed; no weight is read,
    nothing is fetched or written.

    Args:
        suites: what the session was asked for.
        settings: as checked by `Settings.check`.
        out: the output folder, with earlier runs.
        root: where relative names start.
        workers: how many processes measure at once.
        may_ask: whether to ask the Hub now, where the network is allowed.
    """
    pinning = gathered(suites, settings, out, root, may_ask=may_ask)
    found = Outlook(pinning, workers=workers, problems=pinning.problems, notes=pinning.notes)
    pins = pinning.pins()
    trusted = settings.flag("allow-remote-code")
    for suite in suites:
        if suite.plan.adapter not in BUILT_IN_ADAPTERS:
            found.notes.append(
                f"adapter {suite.plan.adapter} is another package's: revisions and memory of "
                f"{suite.name} were not looked at"
            )
            continue
        read = {
            reference: _look_at(reference, suite, found, pins, trusted=trusted)
            for reference in references(suite)
        }
        for pair in suite.pairs:
            _estimate(suite, pair, read, found)
        found.notes += _without_backend(suite)
    if any(found.memory.values()) or pinning.fetched_bytes:
        _weigh(suites, settings, out, found)
    return found


def _look_at(
    reference: str, suite: Suite, found: Outlook, pins: Pins, *, trusted: bool
) -> Checkpoint | None:
    """What one checkpoint's files say; None where it is not here, which its items will say."""
    try:
        source = local_source(pins.models.get(reference, reference), trusted=trusted)
        if runs_own_code(source):
            found.notes.append(f"{reference}: code that it brings is run")
        return read_checkpoint(source.directory, _dtype(suite))
    except ModelLoadError as error:
        if error.code == "MODEL_REMOTE_CODE":
            problem = ConfigError(error.cause, remedy=error.remedy, code=error.code)
            if problem.cause not in [one.cause for one in found.problems]:
                found.problems.append(problem)
    except (KeyError, TypeError, ValueError):
        # A header of another shape than safetensors': loading says what is wrong with it.
        return None
    return None


def _dtype(suite: Suite) -> str:
    """The dtype a worker resolves: on a CPU ``auto`` is float32."""
    if suite.plan.dtype != "auto":
        return suite.plan.dtype
    device = device_memory(suite.plan.device).device
    return "float32" if device == "cpu" else "auto"


def _estimate(
    suite: Suite, pair: Pair, read: Mapping[str, Checkpoint | None], found: Outlook
) -> None:
    key = (suite.node_prefix, pair.name)
    baseline = read.get(pair.baseline)
    if baseline is None:
        found.memory[key] = found.disk[key] = None
        found.notes.append(f"{pair.name}: its memory is unknown: no checkpoint to read is here")
        return
    calibration = suite.calibration
    benign = () if calibration is None else calibration.benign[pair.name]
    scenarios = (*suite.scenarios_of(pair), *benign)
    edits = [scenario.edit for scenario in scenarios if scenario.edit is not None]
    named = {scenario.subject for scenario in scenarios if scenario.subject is not None}
    others = [read.get(subject) for subject in sorted(named)]
    need = memory_need(baseline, suite.plan, edits, [one for one in others if one is not None])
    found.memory[key] = need
    own = {run for s in suite.scenarios_of(pair) for run in suite.runs_of(pair, s)}
    # What a calibration reads are other documents, and so other draws.
    draws = len(own) + (0 if calibration is None else calibration.draws)
    found.disk[key] = kept_bytes(baseline, suite.plan, draws)
    if any(one is None for one in others):
        found.notes.append(f"{pair.name}: a subject's memory is unknown: it is not here")
    if not need.is_whole:
        found.notes.append(f"{pair.name}: memory of activations and logits is unknown")


def _without_backend(suite: Suite) -> list[str]:
    """A note for each deployment whose built-in backend is not installed; others are not asked."""
    demanded = suite.policy.profile != SKIPPING_PROFILE
    fails = f", and the verdict of profile {suite.policy.profile} be FAIL" if demanded else ""
    notes = []
    for scenario in suite.scenarios:
        edit = scenario.edit
        backend = str(edit.parameters["backend"]) if edit and edit.name == DEPLOY else ""
        if backend in SCHEMES and find_spec(backend) is None:
            notes.append(f"{scenario.name} will be skipped{fails}: {backend} is not installed")
    return notes


def _weigh(suites: Sequence[Suite], settings: Settings, out: Path, found: Outlook) -> None:
    """Compare needs with what is free; what will not do is a problem, or a note if so asked."""
    asked = next((suite.plan.device for suite in suites), "auto")
    found.device, found.free_host = device_memory(asked), free_memory()
    found.free_disk = free_disk(out)
    looked = (_memory_problem(found), _disk_problem(found, out), _cache_problem(found))
    problems = [one for one in looked if one is not None]
    if settings.flag("no-preflight"):
        found.notes += [f"{one.cause} [{one.code}]" for one in problems]
    else:
        found.problems += problems
    if found.device.free is None:
        found.notes.append("free memory is unknown here")
    if found.free_disk is None:
        found.notes.append("free disk space is unknown here")


def _memory_problem(found: Outlook) -> ConfigError | None:
    device = found.device
    if device is None:
        return None
    largest = max(
        ((need.total, key[1], need) for key, need in found.memory.items() if need is not None),
        key=lambda one: one[:2],
        default=None,
    )
    if largest is None:
        return None
    total, model, need = largest
    workers = found.workers
    each = f"{as_bytes(total)} each in {workers} workers" if workers > 1 else as_bytes(total)
    parts = (
        f"baseline {as_bytes(need.baseline)}, edit {as_bytes(need.edit)}, second checkpoint "
        f"{as_bytes(need.subject)}, activations and logits "
        f"{as_bytes(need.activations + need.logits)}, process {as_bytes(need.process)}"
    )
    if device.free is not None and total * workers > device.free:
        return ConfigError(
            f"{model}: measuring it takes about {each} of memory on {device.device} ({parts}), and "
            f"{as_bytes(device.free)} are free",
            remedy="free some, use fewer workers (-n), a smaller --invarlock-batch or another "
            f"--invarlock-dtype, {OVERRIDE}",
            code="MEMORY_SHORT",
        )
    # A checkpoint is read into the host's memory before it goes to a device.
    staged = (max(need.baseline, need.subject) + need.process) * workers
    if device.device == "cuda" and found.free_host is not None and staged > found.free_host:
        return ConfigError(
            f"{model}: loading it takes {as_bytes(staged)} of the host's memory, and "
            f"{as_bytes(found.free_host)} are free",
            remedy=f"free some, or use fewer workers (-n), {OVERRIDE}",
            code="MEMORY_SHORT",
        )
    return None


def _disk_problem(found: Outlook, out: Path) -> ConfigError | None:
    needed = sum(size for size in found.disk.values() if size is not None)
    if found.free_disk is not None and needed > found.free_disk:
        return ConfigError(
            f"--invarlock-out: {out.name}: a run keeps about {as_bytes(needed)} there while it "
            f"lasts, and {as_bytes(found.free_disk)} are free",
            remedy="free some, name another disk with --invarlock-out, or measure less, "
            + OVERRIDE,
            code="DISK_SPACE",
        )
    return None


def _cache_problem(found: Outlook) -> ConfigError | None:
    """Weight files that are to be fetched and have no room in the Hub cache."""
    from huggingface_hub import constants

    needed = sum(found.pinning.fetched_bytes.values())
    free = free_disk(Path(constants.HF_HUB_CACHE)) if needed else None
    if free is not None and needed > free:
        return ConfigError(
            f"{', '.join(found.pinning.fetched_bytes)}: {as_bytes(needed)} of weights are to be "
            f"fetched, and {as_bytes(free)} are free for the Hub cache",
            remedy=f"free some, or name another cache with HF_HUB_CACHE, {OVERRIDE}",
            code="CACHE_SPACE",
        )
    return None
