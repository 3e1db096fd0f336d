"""Checkpoints of training, from which a killed job resumes.

A training job is a sequence of stretches: calls of the step loop. A `Keeper` counts them, saves
their state (parameters, optimizers, torch's generator, the position of every stream, the trace, and
what its owner adds), and restores it on the next start: finished stretches are skipped, and the
interrupted one continues at its step. The code between stretches runs again, so a resumed job gives
the same bytes as an undisturbed one.
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
"""Environment variables: how often to save. They are no parameters of an experiment, since no
result depends on them."""
DEFAULT_MINUTES = 10.0
GENERATOR, CUDA_GENERATOR = "torch_generator", "cuda_generator"
PARAMETER = "parameter"


@dataclass(frozen=True)
class Interval:
    """How often to save: after so many minutes of work, so many steps, or both."""

    minutes: float
    steps: int

    @classmethod
    def from_environment(cls) -> Interval:
        """The interval that the environment sets; ten minutes by default, 0 for never.

        Raises:
            ConfigError: a value is no number of its kind.
        """
        return cls(
            _number(MINUTES, float, DEFAULT_MINUTES),
            _number(STEPS, int, 0),
        )

    def due(self, seconds: float, steps: int) -> bool:
        """Whether to save, after this much work since the last checkpoint."""
        return bool(
            (self.minutes and seconds >= 60 * self.minutes) or (self.steps and steps >= self.steps)
        )


def generator_name(kind: str, rank: int) -> str:
    """The name of a rank's generator in a checkpoint."""
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
    """Whether the process got SIGTERM, which schedulers send before they kill."""

    requested = False

    @classmethod
    def listen(cls) -> None:
        """Handle SIGTERM: training saves a checkpoint and stops at its next step."""

        def request(_signal: int, _frame: Any) -> None:
            cls.requested = True
            if not launch.started():  # a rank gets SIGTERM when another has failed, too
                print("atu: asked to stop; a checkpoint follows at the next step", file=sys.stderr)

        signal.signal(signal.SIGTERM, request)


@dataclass
class Part:
    """A trained part: its parameters and its optimizers."""

    parameters: list[nn.Parameter]
    optimizers: Sequence[torch.optim.Optimizer]


@dataclass
class Keeper:
    """Counts a job's stretches, saves their state and trace, and resumes.

    Without `store` nothing is saved. `capture` and `restore` let the owner add its own state.
    """

    store: Store | None
    trace: Trace
    interval: Interval = field(default_factory=Interval.from_environment)
    capture: Callable[[], State] = field(default=lambda: State({}, {}))
    restore: Callable[[State], None] = field(default=lambda _state: None)
    resumed: str | None = None
    """The stretch and step that were resumed from, in words."""

    def __post_init__(self) -> None:
        self._loaded = self.store.load() if self.store else None
        self._parts: dict[str, Part] = {}
        self._number = 0
        self._label = ""
        self._saved_at, self._steps = time.monotonic(), 0

    @property
    def replaying(self) -> bool:
        """Whether the interrupted stretch is still ahead: all that runs now was done before."""
        return self._loaded is not None

    def recorded(self, name: str) -> Any:
        """A value of the checkpoint that will be resumed from; None without one."""
        return self._loaded.values[name] if self._loaded else None

    def enter(
        self,
        label: str,
        part: str,
        parameters: list[nn.Parameter],
        optimizers: Sequence[torch.optim.Optimizer],
        steps: int,
    ) -> int:
        """Begin a stretch that trains a part; returns how many of its steps are done already."""
        self._number += 1
        self._label = label
        self._parts[part] = Part(parameters, optimizers)
        if self._loaded is None:
            return 0
        values = self._loaded.values
        if self._number <= values["number"]:
            self._restore_part(part)
        if self._number < values["number"]:
            return steps
        return self._resume()

    def _resume(self) -> int:
        """Restore the rest of the checkpoint; returns its step."""
        assert self._loaded is not None
        checkpoint, self._loaded = self._loaded, None
        # If there were fewer ranks then, this rank's generator stays as it is.
        generator = checkpoint.tensors.get(generator_name(GENERATOR, processes.rank()))
        if generator is not None:
            torch.set_rng_state(generator)
        generator = checkpoint.tensors.get(generator_name(CUDA_GENERATOR, processes.rank()))
        if generator is not None:
            torch.cuda.set_rng_state(generator)
        step = int(checkpoint.values["step"])
        self.trace.rows[:] = checkpoint.values["trace"]
        self.restore(checkpoint)
        self.resumed = f"{self._label}, step {step}"
        print(f"resumed from {self.resumed}", file=sys.stderr)
        self._saved_at, self._steps = time.monotonic(), 0
        return step

    def _restore_part(self, name: str) -> None:
        """Load the part's parameters and optimizers from the checkpoint."""
        assert self._loaded is not None
        prefix = f"part/{name}/"
        load_part(
            self._parts[name],
            {
                key.removeprefix(prefix): value
                for key, value in self._loaded.tensors.items()
                if key.startswith(prefix)
            },
        )

    def stepped(self, step: int) -> None:
        """Save after a step if a checkpoint is due.

        Raises:
            StoppedError: the process was asked to stop; a checkpoint was saved if possible.
        """
        self._steps += 1
        seconds = time.monotonic() - self._saved_at
        requested, due = processes.any_of(Stop.requested, self.interval.due(seconds, self._steps))
        saved = False
        if self.store and (requested or due):
            saved = self._save(self.store, step)
        if requested:
            outcome = "run again to go on from there" if saved else "no checkpoint could be kept"
            raise StoppedError(f"{self._label}: stopped on request at step {step}; {outcome}")

    def _save(self, store: Store, step: int) -> bool:
        """Whether a checkpoint was written."""
        saved = store.save(self._state(step))
        # From its end: a save that takes longer than the interval must not make the next step due.
        self._saved_at, self._steps = time.monotonic(), 0
        return saved

    def _state(self, step: int) -> State:
        captured = self.capture()
        tensors = dict(captured.tensors)
        generators = {GENERATOR: torch.get_rng_state()}
        if torch.cuda.is_initialized():
            generators[CUDA_GENERATOR] = torch.cuda.get_rng_state()
        for kind, state in generators.items():
            for rank, of_rank in enumerate(processes.gathered(state)):
                tensors[generator_name(kind, rank)] = of_rank
        for name, part in self._parts.items():
            tensors |= {f"part/{name}/{key}": value for key, value in save_part(part).items()}
        values = {"number": self._number, "step": step, "trace": self.trace.rows}
        return State(captured.values | values, tensors)


def save_part(part: Part) -> dict[str, Tensor]:
    """Weights (`parameter/<number>`) and optimizer state (`<key>/<number>`), whole and on the CPU
    of rank 0; other ranks get {}.
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
    """Restore the tensors of `save_part`, on each rank its shards; the parameter groups (rates,
    betas) stay as they are.

    `set_optimizer_state_dict` does not work here: it fails on an optimizer without state ("Expected
    device to be set", plain SGD), and it gives a parameter that had no gradient before the
    checkpoint the state of one step.
    """
    states: dict[nn.Parameter, dict[str, Tensor]] = {p: {} for p in part.parameters}
    for name, value in tensors.items():
        key, number = name.split("/")
        parameter = part.parameters[int(number)]
        states[parameter][key] = processes.part_like(value, parameter)
    with torch.no_grad():
        for parameter, state in states.items():
            parameter.copy_(state.pop(PARAMETER))
    for optimizer in part.optimizers:
        ordered = [states[p] for group in optimizer.param_groups for p in group["params"]]
        numbered = {number: state for number, state in enumerate(ordered) if state}
        optimizer.load_state_dict(optimizer.state_dict() | {"state": numbered})


@dataclass
class Trace:
    """One row per optimizer step, written as `trace.jsonl`."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, **row: Any) -> None:
        """Append one row."""
        self.rows.append(row)
