"""What training changes is saved, and put back when a job that was killed starts again.

A job that trains is a sequence of stretches: calls of the step loop. A `Keeper` counts them, saves
what they change (parameters, optimizers, torch's generator, how far every stream has been read, the
trace, and what its owner adds), and on the next start puts all of it back: stretches that were done
are skipped, the one that was broken off goes on at its step. The code between stretches runs again,
so a job resumed is byte for byte the job undisturbed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from atu.distributed import launch, processes
from atu.errors import ConfigError, StoppedError
from atu.results.checkpoints import State, Store

MINUTES, STEPS = "ATU_CHECKPOINT_MINUTES", "ATU_CHECKPOINT_STEPS"
"""Environment variables: how often to save. No parameter of an experiment, since no result depends
on it."""
DEFAULT_MINUTES = 10.0
GENERATOR, CUDA_GENERATOR = "torch_generator", "cuda_generator"
PARAMETER = "parameter"


@dataclass(frozen=True)
class Interval:
    """How often to save: every so many minutes of work, every so many steps, or both."""

    minutes: float
    steps: int

    @classmethod
    def from_environment(cls) -> Interval:
        """As the environment says; every ten minutes where it says nothing, 0 for never.

        Raises:
            ConfigError: a value that is no number of that kind.
        """
        return cls(
            _number(MINUTES, float, DEFAULT_MINUTES),
            _number(STEPS, int, 0),
        )

    def due(self, seconds: float, steps: int) -> bool:
        """Whether it is time, after so much work since the last checkpoint."""
        return bool(
            (self.minutes and seconds >= 60 * self.minutes) or (self.steps and steps >= self.steps)
        )


def generator_name(kind: str, rank: int) -> str:
    """What a rank's generator is called in a checkpoint."""
    return f"{kind}/{rank}" if rank else kind


def _number(name: str, kind: Callable[[str], Any], otherwise: Any) -> Any:
    text = os.environ.get(name, "")
    if not text:
        return otherwise
    try:
        value = kind(text)
    except ValueError:
        value = -1
    if not 0 <= value < float("inf"):
        raise ConfigError(name, text, f"give a {kind.__name__} of 0 or more; 0 for never")
    return value


class Stop:
    """Whether the process was asked to stop: SIGTERM, as a scheduler sends it before it kills."""

    asked = False

    @classmethod
    def listen(cls) -> None:
        """From now on SIGTERM asks instead of killing; training checkpoints and stops at its next
        step.
        """

        def ask(_signal: int, _frame: Any) -> None:
            cls.asked = True
            if not launch.started():  # a rank is asked, too, when another has failed
                print("atu: asked to stop; a checkpoint follows at the next step", file=sys.stderr)

        signal.signal(signal.SIGTERM, ask)


@dataclass
class Part:
    """Something that is trained: its parameters and its optimizers."""

    parameters: list[nn.Parameter]
    optimizers: Sequence[torch.optim.Optimizer]


@dataclass
class Keeper:
    """Counts a job's stretches, saves them and their trace, and resumes.

    `store` None keeps nothing. `capture` and `restore` let the owner add what else must survive.
    """

    store: Store | None
    trace: Trace
    interval: Interval = field(default_factory=Interval.from_environment)
    capture: Callable[[], State] = field(default=lambda: State({}, {}))
    restore: Callable[[State], None] = field(default=lambda _state: None)
    resumed: str | None = None
    """What was resumed from, in words."""

    def __post_init__(self) -> None:
        self._found = self.store.load() if self.store else None
        self._parts: dict[str, Part] = {}
        self._number = 0
        self._label = ""
        self._saved_at, self._steps = time.monotonic(), 0

    @property
    def replaying(self) -> bool:
        """Whether what runs now was done before, and only the stretch that was broken off is still
        to be reached.
        """
        return self._found is not None

    def recorded(self, name: str) -> Any:
        """A value of the checkpoint that is about to be resumed from; None without one."""
        return self._found.values[name] if self._found else None

    def enter(
        self,
        label: str,
        part: str,
        parameters: list[nn.Parameter],
        optimizers: Sequence[torch.optim.Optimizer],
        steps: int,
    ) -> int:
        """Begin a stretch that trains a part; how many of its steps are done already."""
        self._number += 1
        self._label = label
        self._parts[part] = Part(parameters, optimizers)
        if self._found is None:
            return 0
        values = self._found.values
        if self._number <= values["number"]:
            self._put_back(part)
        if self._number < values["number"]:
            return steps
        return self._go_on()

    def _go_on(self) -> int:
        """All is back as it was at the checkpoint."""
        assert self._found is not None
        found, self._found = self._found, None
        # Where there were fewer ranks then, this one's goes on as it is.
        mine = found.tensors.get(generator_name(GENERATOR, processes.rank()))
        if mine is not None:
            torch.set_rng_state(mine)
        mine = found.tensors.get(generator_name(CUDA_GENERATOR, processes.rank()))
        if mine is not None:
            torch.cuda.set_rng_state(mine)
        step = int(found.values["step"])
        self.trace.rows[:] = found.values["trace"]
        self.restore(found)
        self.resumed = f"{self._label}, step {step}"
        print(f"resumed from {self.resumed}", file=sys.stderr)
        self._saved_at, self._steps = time.monotonic(), 0
        return step

    def _put_back(self, name: str) -> None:
        """The part's parameters and optimizers, as the checkpoint has them."""
        assert self._found is not None
        prefix = f"part/{name}/"
        load_part(
            self._parts[name],
            {
                key.removeprefix(prefix): value
                for key, value in self._found.tensors.items()
                if key.startswith(prefix)
            },
        )

    def stepped(self, step: int) -> None:
        """After a step: save if it is time.

        Raises:
            StoppedError: the process was asked to stop; it has saved, if it could.
        """
        self._steps += 1
        seconds = time.monotonic() - self._saved_at
        asked, due = processes.any_of(Stop.asked, self.interval.due(seconds, self._steps))
        saved = False
        if self.store and (asked or due):
            saved = self._save(self.store, step)
        if asked:
            kept = "run again to go on from there" if saved else "no checkpoint could be kept"
            raise StoppedError(f"{self._label}: stopped on request at step {step}; {kept}")

    def _save(self, store: Store, step: int) -> bool:
        """Whether a checkpoint was written."""
        saved = store.save(self._state(step))
        # From its end: one that takes longer than the interval must not make the next step due.
        self._saved_at, self._steps = time.monotonic(), 0
        return saved

    def _state(self, step: int) -> State:
        own = self.capture()
        tensors = dict(own.tensors)
        generators = {GENERATOR: torch.get_rng_state()}
        if torch.cuda.is_initialized():
            generators[CUDA_GENERATOR] = torch.cuda.get_rng_state()
        for kind, state in generators.items():
            for rank, found in enumerate(processes.gathered(state)):
                tensors[generator_name(kind, rank)] = found
        for name, part in self._parts.items():
            tensors |= {f"part/{name}/{key}": value for key, value in save_part(part).items()}
        values = {"number": self._number, "step": step, "trace": self.trace.rows}
        return State(own.values | values, tensors)


def save_part(part: Part) -> dict[str, Tensor]:
    """Weights (`parameter/<number>`) and what optimizers keep of each (`<key>/<number>`), whole and
    on the CPU of rank 0; other ranks get {}.
    """
    # Imported here: it takes 0.7 s, and most jobs end before their first checkpoint.
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    weights, optimizers = get_state_dict(
        nn.ParameterList(part.parameters),
        part.optimizers,
        options=StateDictOptions(full_state_dict=True, cpu_offload=True),
    )
    states: dict[str, Any] = optimizers.get("state", {})  # type: ignore[assignment]
    moments = {f"{key}/{n}": value for n, state in states.items() for key, value in state.items()}
    return moments | {f"{PARAMETER}/{n}": weight for n, weight in weights.items()}


def load_part(part: Part, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `save_part` gave, each rank its shards; the groups (rates, betas) stay as they
    were made.

    `set_optimizer_state_dict` would not do: it fails on an optimizer without state ("Expected
    device to be set", plain SGD), and a parameter that had no gradient before the checkpoint it
    leaves with the state of one step.
    """
    kept: dict[nn.Parameter, dict[str, Tensor]] = {p: {} for p in part.parameters}
    for name, value in tensors.items():
        key, number = name.split("/")
        parameter = part.parameters[int(number)]
        kept[parameter][key] = processes.part_like(value, parameter)
    with torch.no_grad():
        for parameter, own in kept.items():
            parameter.copy_(own.pop(PARAMETER))
    for optimizer in part.optimizers:
        owned = [kept[p] for group in optimizer.param_groups for p in group["params"]]
        state = {number: own for number, own in enumerate(owned) if own}
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


@dataclass
class Trace:
    """One row per optimizer step, written as `trace.jsonl`."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, **row: Any) -> None:
        """Append one row."""
        self.rows.append(row)
