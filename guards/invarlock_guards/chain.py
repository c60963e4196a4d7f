"""GuardChain: several guards taken through one edit, in order, by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from invarlock_guards.answers import ACTIONS, read_prepared, read_result
from invarlock_guards.contract import Action, Guard, GuardResult, Status

Phase = Literal["new", "prepared", "before_edit", "after_edit", "finalized"]
_MAY_FOLLOW: Mapping[Phase, tuple[Phase, ...]] = {
    "prepared": ("new",),
    "before_edit": ("prepared",),
    "after_edit": ("before_edit",),
    "finalized": ("prepared", "before_edit", "after_edit"),
}
_GRAVITY: tuple[Status, ...] = ("passed", "warned", "not_evaluated", "failed")


@dataclass(frozen=True, slots=True)
class ChainResult:
    """What a chain's guards have answered so far, one result each, in the chain's order."""

    results: tuple[GuardResult, ...]

    @property
    def status(self) -> Status:
        """The gravest of the guards' words; a chain in which nobody answered is not evaluated."""
        words = [result.status for result in self.results] or ["not_evaluated"]
        return max(words, key=_GRAVITY.index)

    @property
    def action(self) -> Action:
        """The gravest action: abort before rollback before warn before continue.

        A guard that did not answer asks for nothing itself; its chain is not ``passed`` all the
        same.
        """
        return max(
            (result.action for result in self.results), key=ACTIONS.index, default="continue"
        )

    @property
    def passed(self) -> bool:
        """Whether every guard answered and none failed."""
        return self.status in ("passed", "warned")

    def of(self, guard: str) -> GuardResult:
        """The result of the guard of that name; KeyError where the chain has none."""
        for result in self.results:
            if result.guard == guard:
                return result
        raise KeyError(guard)


class GuardChain:
    """Calls every guard at each step of an edit, in the order given.

    The order of steps is `prepare_all` on the baseline, `before_edit_all`, the caller's edit,
    `after_edit_all`, `validate_all` on the subject, `finalize_all`. Neither hooks around the edit
    nor `validate_all` are obligatory, but nothing comes before `prepare_all` or after
    `finalize_all`. What a guard raises is raised; a malformed answer raises `GuardAnswerError`.

    Args:
        guards: each has a name of its own, and ``validate``; ``prepare``, ``before_edit``,
            ``after_edit`` and ``finalize`` are called where they are.
    """

    def __init__(self, guards: Sequence[Guard]) -> None:
        self.guards = tuple(guards)
        self._names = [guard.name for guard in self.guards]
        if len(set(self._names)) < len(self._names):
            twice = next(name for name in self._names if self._names.count(name) > 1)
            raise ValueError(f"two guards of the chain are named {twice!r}")
        self._phase: Phase = "new"
        self._ready: dict[str, bool] = {}
        self._results: dict[str, GuardResult] = {}

    def prepare_all(
        self, model: Any, adapter: Any, calib: Any, policy_config: Mapping[str, Any] | None = None
    ) -> dict[str, dict[str, Any]]:
        """Show the baseline to every guard.

        Args:
            model: the baseline.
            adapter: whatever the guards expect; built-in ones take None.
            calib: calibration batches, or None.
            policy_config: limits by guard name; a guard that it does not name gets an empty one.

        Returns:
            What each guard's ``prepare`` gave, by name, with at least ``ready``.
        """
        self._enter("prepared")
        policies = policy_config or {}
        prepared: dict[str, dict[str, Any]] = {}
        for guard in self.guards:
            prepare = getattr(guard, "prepare", None)
            policy = policies.get(guard.name, {})
            answer = {"ready": True} if prepare is None else prepare(model, adapter, calib, policy)
            prepared[guard.name] = read_prepared(guard.name, answer)
            self._ready[guard.name] = prepared[guard.name]["ready"]
        return prepared

    def before_edit_all(self, model: Any) -> None:
        """Call ``before_edit(model)`` of the guards that have it."""
        self._enter("before_edit")
        self._hooks("before_edit", model)

    def after_edit_all(self, model: Any) -> None:
        """Call ``after_edit(model)`` of the guards that have it."""
        self._enter("after_edit")
        self._hooks("after_edit", model)

    def validate_all(self, model: Any, adapter: Any, context: Any = None) -> ChainResult:
        """Show the subject to every guard that is ready, up to the first that says abort.

        Those behind an abort, and those that were not ready, are ``not_evaluated``.
        """
        if self._phase in ("new", "finalized"):
            raise RuntimeError(f"a chain that is {self._phase} cannot validate")
        self._results.clear()
        for guard in self.guards:
            if not self._ready[guard.name]:
                continue
            answer = guard.validate(model, adapter, context)
            result = self._results[guard.name] = read_result(guard.name, answer)
            if result.action == "abort":
                break
        return self._told()

    def finalize_all(self, model: Any) -> ChainResult:
        """Call ``finalize(model)`` of the guards that have it, and conclude.

        What ``finalize`` gives, unless None, stands in place of that guard's earlier answer if it
        is as grave or graver: a guard cannot take back that it failed, and one that was not ready
        or not asked can fail here, but not pass.
        """
        self._enter("finalized")
        for name, answer in self._hooks("finalize", model).items():
            if answer is None:
                continue
            result = read_result(name, answer)
            earlier = self._results.get(name) or self._unanswered(name)
            if _gravity(result) >= _gravity(earlier):
                self._results[name] = result
        return self._told()

    def _enter(self, phase: Phase) -> None:
        if self._phase not in _MAY_FOLLOW[phase]:
            raise RuntimeError(f"a chain that is {self._phase} cannot become {phase}")
        self._phase = phase

    def _hooks(self, hook: str, model: Any) -> dict[str, object]:
        called = {guard.name: getattr(guard, hook, None) for guard in self.guards}
        return {name: method(model) for name, method in called.items() if method is not None}

    def _told(self) -> ChainResult:
        return ChainResult(
            tuple(self._results.get(name) or self._unanswered(name) for name in self._names)
        )

    def _unanswered(self, name: str) -> GuardResult:
        why = "did not validate" if self._ready.get(name) else "was not ready"
        return GuardResult(name, None, "continue", "not_evaluated", f"{name} {why}")


def _gravity(result: GuardResult) -> tuple[int, int]:
    return _GRAVITY.index(result.status), ACTIONS.index(result.action)
