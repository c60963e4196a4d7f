"""The settings a user can make, as data, and how one is read: the value and where it came from.

Every setting ``x-y`` is option ``--invarlock-x-y``, ini ``invarlock_x_y`` and environment
``INVARLOCK_X_Y``. Command line > environment > ini > suite file > profile > default.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.nearest import nearest

NEWEST = "newest"
"""The value of setting ``resume`` that means the suite's newest run."""
_ON, _OFF = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")


@dataclass(frozen=True, slots=True)
class SettingSpec:
    """One setting: its dashed name, placeholder, help text, and shape.

    ``implied`` is what the option means without a value; empty where it needs one.
    """

    name: str
    metavar: str
    help: str
    default: str = ""
    repeatable: bool = False
    flag: bool = False
    choices: tuple[str, ...] = ()
    implied: str = ""

    @property
    def dest(self) -> str:
        """``invarlock_x_y``: argparse destination and ini name."""
        return "invarlock_" + self.name.replace("-", "_")

    @property
    def environment(self) -> str:
        """``INVARLOCK_X_Y``."""
        return self.dest.upper()

    @property
    def usage(self) -> str:
        """The option as a user writes it, such as ``--invarlock-out=DIR``."""
        if self.flag:
            return f"--invarlock-{self.name}"
        value = f"[={self.metavar}]" if self.implied else f"={self.metavar}"
        return f"--invarlock-{self.name}{value}"


SETTINGS: tuple[SettingSpec, ...] = (
    SettingSpec("suite", "NAME|FILE", "Run a shipped suite or a suite file"),
    SettingSpec("baseline", "MODEL", "Compare checkpoints: the baseline (Hub id, directory, …)"),
    SettingSpec("subject", "MODEL", "Compare checkpoints: a subject; may repeat", repeatable=True),
    SettingSpec("model", "MODEL", "Replace the suite's models; may repeat", repeatable=True),
    SettingSpec("scenario", "ID", "Run a suite of just this scenario; may repeat", repeatable=True),
    SettingSpec("mode", "MODE", "Part of a suite: full, calibrate-only, run-only, errors-only",
                "full", choices=("full", "calibrate-only", "run-only", "errors-only")),
    SettingSpec("sweep", "SCENARIO:PARAM=a,b,c", "Run a suite of just these doses; may repeat",
                repeatable=True),
    SettingSpec("tier", "NAME|FILE", "Limits: conservative, balanced, aggressive", "balanced"),
    SettingSpec("profile", "NAME", "Counts: dev, ci_cpu, ci, release", "ci under CI, else dev",
                choices=("dev", "ci_cpu", "ci", "release")),
    SettingSpec("dataset", "KIND[:ARG]|MAPPING|FILE",
                "Data: wikitext2, hf_text:NAME, local_jsonl:FILE, pydoc, …", "suite's"),
    SettingSpec("preset", "NAME|FILE|DIR",
                "Data, lengths, metric: causal, masked, seq2seq, accuracy", "suite's"),
    SettingSpec("tuned", "FILE", "Parameters of clean edits, in the original's format", "shipped"),
    SettingSpec("tune", "", "Search the parameters of a suite's clean edits, and run nothing else",
                "off", flag=True),
    SettingSpec("adapter", "NAME", "auto, hf_causal, hf_mlm, hf_seq2seq, or an installed one",
                "auto"),
    SettingSpec("preview-windows", "N", "Windows of the preview arm", "profile's"),
    SettingSpec("final-windows", "N", "Windows of the final arm", "profile's"),
    SettingSpec("seq-len", "TOKENS", "Tokens of a window", "512"),
    SettingSpec("stride", "TOKENS", "Tokens from one window to the next", "seq-len"),
    SettingSpec("batch", "TOKENS|auto", "Tokens of one forward pass", "auto"),
    SettingSpec("kind", "KIND", "Declared kind of change of every scenario", "edit's own",
                choices=("any", "cast", "quantize8", "quantize4", "prune", "finetune", "merge",
                         "reparametrized")),
    SettingSpec("repeats", "N", "Draws of windows per scenario; two at least where a signal "
                "must be confirmed", "1"),
    SettingSpec("resume", "RUN", "Take over what an earlier run measured: the suite's newest, a "
                "run's id, or its folder", "off", implied=NEWEST),
    SettingSpec("out", "DIR", "Everything written goes under here", "invarlock-out"),
    SettingSpec("signing-key", "FILE|auto|none", "Ed25519 key that signs the pack", "auto"),
    SettingSpec("device", "NAME", "auto, cpu, cuda, mps", "auto",
                choices=("auto", "cpu", "cuda", "mps")),
    SettingSpec("dtype", "NAME", "auto, float32, bfloat16, float16, float64", "auto",
                choices=("auto", "float32", "bfloat16", "float16", "float64")),
    SettingSpec("threads", "auto|N", "CPU threads of a worker", "auto"),
    SettingSpec("determinism", "MODE", "throughput or strict", "profile's",
                choices=("throughput", "strict")),
    SettingSpec("on-inconclusive", "WORD", "fail or xfail", "fail",
                choices=("fail", "xfail")),
    SettingSpec("guard-prepare-strict", "0|1", "0, to debug in profile dev: a monitoring guard "
                "that cannot be prepared warns", "1", choices=("0", "1", "false", "true")),
    SettingSpec("sequential", "", "Stop as soon as an anytime-valid bound decides", "off",
                flag=True),
    SettingSpec("timeout", "SECONDS", "Longest that a draw of a scenario may take; the scenario's "
                "own key wins", "21600"),
    SettingSpec("progress", "MODE", "auto, line, plain, off", "auto",
                choices=("auto", "line", "plain", "off")),
    SettingSpec("allow-network", "", "Let Hub clients use the network", "off", flag=True),
    SettingSpec("allow-remote-code", "", "Run the code that a model brings, where it needs it",
                "off", flag=True),
    SettingSpec("revisions", "FILE", "Commits of Hub models; without it the newest earlier run's",
                "state/model_revisions.json"),
    SettingSpec("no-preflight", "", "Do not refuse a run for want of memory or disk", "off",
                flag=True),
    SettingSpec("plan", "", "Print what would run, its needs and its time; measure nothing",
                "off", flag=True),
    SettingSpec("release-review", "", "Demand what a release rests on: PASS, a named key, strict "
                "determinism, profile ci or release, provenance", "off", flag=True),
    SettingSpec("no-pack", "", "Write no evidence pack", "off", flag=True),
    SettingSpec("no-html", "", "Write no HTML page beside a certificate", "off", flag=True),
    SettingSpec("list-suites", "", "List the shipped suites and exit", "off", flag=True),
)  # fmt: skip
SPECS: Mapping[str, SettingSpec] = {spec.name: spec for spec in SETTINGS}
_WORD = re.compile(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""")
_QUOTED = re.compile(r"""("[^"]*"|'[^']*')""")
_OURS = frozenset(spec.environment for spec in SETTINGS)


@dataclass(frozen=True, slots=True)
class Setting:
    """A value a user gave, as text (or several), and the name of the place it stands in."""

    values: tuple[str, ...]
    origin: str


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings made on the command line, in the environment or in an ini file.

    ``notes`` tell which were made under a name of the original; ``provider_arguments`` are those
    that its variables give data providers: by kind and argument, the value and the variable.
    """

    made: Mapping[str, Setting] = field(default_factory=dict)
    in_ci: bool = False
    notes: tuple[str, ...] = ()
    provider_arguments: Mapping[str, Mapping[str, tuple[str | int, str]]] = field(
        default_factory=dict
    )

    def check(self) -> None:
        """Raise ConfigError for a flag that is neither on nor off, or a word that is no choice.

        Also for a number that nothing reads before a measurement begins.
        """
        for name in self.made:
            if SPECS[name].flag:
                self.flag(name)
            elif SPECS[name].choices:
                self.choice(name, SPECS[name].choices)
        self.number("timeout")

    def text(self, name: str) -> str | None:
        """The value of a setting, or None where nobody made it."""
        setting = self.made.get(name)
        return setting.values[-1] if setting is not None else None

    def texts(self, name: str) -> tuple[str, ...]:
        """The values of a repeatable setting."""
        setting = self.made.get(name)
        return setting.values if setting is not None else ()

    def flag(self, name: str) -> bool:
        """Whether a flag is on; raises ConfigError for a value that is neither yes nor no."""
        text = (self.text(name) or "false").lower()
        if text in _ON:
            return True
        if text in _OFF:
            return False
        raise self.wrong(name, "true or false")

    def implied(self, name: str) -> str | None:
        """The value of a setting that may stand alone, which yes also means; None where it is off.

        An option without a value and a yes in the environment or an ini file mean the same.
        """
        text = self.text(name)
        if text is None or text.lower() in _OFF:
            return None
        return SPECS[name].implied if text.lower() in _ON else text

    def number(self, name: str, *, minimum: int = 1) -> int | None:
        """The whole number a setting gives, or None; raises ConfigError otherwise."""
        text = self.text(name)
        if text is None:
            return None
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise self.wrong(name, f"a whole number of at least {minimum}")
        return value

    def choice(self, name: str, allowed: tuple[str, ...]) -> str | None:
        """One of ``allowed``, or None; raises ConfigError that lists them, the nearest first."""
        text = self.text(name)
        if text is None or text in allowed:
            return text
        hint = nearest(text, list(allowed), "value")
        listed = f"the values are: {', '.join(allowed)}"
        raise ConfigError(
            f"{self.made[name].origin}: {text!r} is not one of its values",
            remedy=hint if hint == listed else f"{hint} {listed}",
            code="BAD_VALUE",
        )

    def wrong(self, name: str, wanted: str) -> ConfigError:
        """The error for a value of the wrong shape."""
        setting = self.made[name]
        return ConfigError(
            f"{setting.origin}: {setting.values[-1]!r} cannot be used",
            remedy=f"give {wanted}",
            code="BAD_VALUE",
        )


def collect_settings(
    option: Callable[[str], object],
    ini: Callable[[str], object],
    environment: Mapping[str, str],
) -> Settings:
    """Gather every setting by precedence: ``option`` and ``ini`` answer by ``dest`` name."""
    made: dict[str, Setting] = {}
    notes: list[str] = []
    for spec in SETTINGS:
        old_name, old_value = _old_name(spec, environment)
        for value, origin in (
            (option(spec.dest), f"--invarlock-{spec.name}"),
            (environment.get(spec.environment), spec.environment),
            (old_value, old_name),
            (ini(spec.dest), f"ini {spec.dest}"),
        ):
            values = _as_texts(value, spec, origin)
            if values:
                made[spec.name] = Setting(values, origin)
                if origin == old_name:
                    notes.append(f"{old_name} is read as {spec.environment}")
                break
    in_ci = environment.get("CI", "").lower() not in ("", "0", "false", "no")
    return Settings(made, in_ci, tuple(notes), _provider_arguments(environment))


def _old_name(spec: SettingSpec, environment: Mapping[str, str]) -> tuple[str, str | None]:
    """The name of the original under which a setting is made, and its value."""
    if not _may_be_old(environment):
        return "", None
    from pytest_invarlock.policy.migration import alias_of

    return alias_of(spec.name, environment) or ("", None)


def _provider_arguments(
    environment: Mapping[str, str],
) -> Mapping[str, Mapping[str, tuple[str | int, str]]]:
    """By kind of data provider, what old variables give it; nothing is judged yet."""
    if not _may_be_old(environment):
        return {}
    from pytest_invarlock.policy.migration import provider_arguments

    return provider_arguments(environment)


def _may_be_old(environment: Mapping[str, str]) -> bool:
    """Whether any variable may be one of the original's; spares sessions reading the table."""
    return any(
        name.startswith(("PACK_", "INVARLOCK_")) and name not in _OURS for name in environment
    )


def _as_texts(value: object, spec: SettingSpec, origin: str) -> tuple[str, ...]:
    if value is None or value is False or value == "":
        return ()
    if value is True:
        return ("true",)
    if isinstance(value, list | tuple):
        return tuple(str(part) for part in value)
    if spec.repeatable:
        return _words(str(value), origin)
    return (str(value),)


def _words(text: str, origin: str) -> tuple[str, ...]:
    """``text`` split at blanks, but for those in quotes; a word all in quotes loses them."""
    if _WORD.sub("", text).strip():
        raise ConfigError(
            f"{origin}: {text!r} has a quote that is never closed",
            remedy="put a name with blanks or quotes in quotes of the other sort",
            code="BAD_VALUE",
        )
    words = _WORD.findall(text)
    return tuple(word[1:-1] if _QUOTED.fullmatch(word) else word for word in words)
