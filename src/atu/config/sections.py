"""The sections of the parameters: what each key means, its type and its bounds."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)

from atu import attacks, methods
from atu.config.entries import parse_entry, parse_settings
from atu.config.roles import RELEARN
from atu.errors import shown
from atu.models.predictor import PredictorConfig
from atu.results.locks import Source
from atu.untrusted.names import composed
from atu.untrusted.strict import Section
from atu.untrusted.targets import RESERVED, Target, folded, require_short, steps, target_slug

Slug = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
PositiveInt = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


def _storable(value: Any) -> Any:
    """A value without a type of its own must fit into the manifest's JSON: no NaN, no infinity."""
    json.dumps(value, allow_nan=False)
    return value


Plain = Annotated[Any, AfterValidator(_storable)]


def told_by(key: str, having: str, lacking: str) -> Discriminator:
    """Which of two sections a value is, by a key that only one of them has, so that a bad value is
    reported as a bad value of that one.
    """

    def tag(value: Any) -> str:
        has_key = key in value if isinstance(value, dict) else hasattr(value, key)
        return having if has_key else lacking

    return Discriminator(tag)


def _apart(values: list[Any]) -> list[Any]:
    if len(set(values)) != len(values):
        raise ValueError("lists an entry twice; remove one")
    return values


def _names(values: list[str]) -> list[str]:
    """Targets as they are compared: no two are one, or share a folder."""
    names = _apart([composed(value) for value in values])
    slugs = [target_slug(name) for name in names]
    if len(set(map(folded, slugs))) != len(slugs):
        raise ValueError(f"share a folder name: {', '.join(slugs)}; rename one")
    return names


class Grid(Section):
    """Which cells to run: every model x target x method x seed."""

    models: list[Slug] = Field(min_length=1, description="keys of pretrain.models")
    targets: list[str] = Field(
        min_length=1, description="names of what to forget, each from the original model"
    )
    together: list[list[str]] = Field(
        description="lists of names to forget at once: one model each; none: []"
    )
    sequences: list[list[str]] = Field(
        description="lists of names to forget one after another, each from the last model; none: []"
    )
    methods: list[Slug] = Field(min_length=1, description="keys of unlearn.methods")
    seeds: list[Seed] = Field(min_length=1, description="seeds of align and unlearn")
    attacks: list[Slug] = Field(description="keys of attack.attacks; none: []")

    @field_validator("targets")
    @classmethod
    def _composed(cls, values: list[str]) -> list[str]:
        return _names(values)

    @field_validator("together", "sequences")
    @classmethod
    def _all_composed(cls, values: list[list[str]]) -> list[list[str]]:
        return [[composed(name) for name in names] for names in values]

    @field_validator("models", "methods", "seeds", "attacks")
    @classmethod
    def _distinct(cls, values: list[Any]) -> list[Any]:
        return _apart(values)

    @field_validator("models")
    @classmethod
    def _free(cls, values: list[str]) -> list[str]:
        taken = [value for value in values if value in RESERVED]
        if taken:
            raise ValueError(f"{taken[0]!r} is a reserved folder name")
        return values

    @field_validator("together", "sequences")
    @classmethod
    def _several(cls, values: list[list[str]]) -> list[list[str]]:
        for names in values:
            slugs = {folded(target_slug(name)) for name in names}
            if len(slugs) < max(len(names), 2):
                raise ValueError(f"{shown(names)} must list two or more different names")
        return values

    @model_validator(mode="after")
    def _fit(self) -> Grid:
        for target in self.requests():
            require_short(target.slug)
        return self

    def requests(self) -> list[Target]:
        """Every request: single names, names at once, and each step of a sequence, each once."""
        targets = [Target((name,)) for name in self.targets]
        targets += [Target(tuple(names)) for names in self.together]
        targets += [step for names in self.sequences for step in steps(names)]
        return list(dict.fromkeys(targets))


class Built(Section):
    """A model that is trained from scratch on the benchmark's corpus."""

    config: dict[str, Plain] = Field(description="transformers config: model_type and its keys")
    vocab_size: Annotated[int, Field(ge=260)] = Field(description="byte-level BPE vocabulary")
    seed: Seed | None = Field(
        default=None, description="in place of pretrain.seed; as there: leave it out"
    )
    steps: PositiveInt | None = Field(
        default=None, description="in place of pretrain.steps; as there: leave it out"
    )


class Pinned(Section):
    """A model that exists: its weights stay where they are, and are pinned by their sha256."""

    model_config = ConfigDict(strict=False)  # would take no dataclass from a dict
    source: Source = Field(
        description="a Hugging Face folder, a GGUF file, pip:package==version, or a repository of "
        "the hub"
    )
    finetune: StrictBool = Field(
        description="train it on the benchmark's corpus first, which gives an oracle too"
    )
    oracles: dict[str, Source] = Field(
        default_factory=dict,
        description="per target, a checkpoint that never saw it, where somebody has published one "
        "(TOFU's retain models); none: {}, or leave it out",
    )

    @field_validator("oracles")
    @classmethod
    def _composed(cls, values: dict[str, Source]) -> dict[str, Source]:
        return {composed(label): source for label, source in values.items()}


ModelSpec = Annotated[
    Annotated[Built, Tag("[built]")] | Annotated[Pinned, Tag("[pinned]")],
    told_by("source", "[pinned]", "[built]"),
]
"""A model to train, or one that exists."""


class Pretrain(Section):
    """How models learn the world."""

    seed: Seed
    models: dict[Slug, ModelSpec] = Field(min_length=1)
    steps: PositiveInt
    batch_tokens: PositiveInt = Field(description="padded tokens per step")
    length_pool: PositiveInt = Field(description="texts sorted by length together")
    learning_rate: PositiveFloat = Field(description="AdamW, for embeddings and norms")
    matrix_learning_rate: PositiveFloat = Field(description="Muon, for hidden weight matrices")
    warmup: Share = Field(description="share of steps")
    clip: PositiveFloat

    def of(self, model: str) -> Pretrain:
        """The section with the model's own seed and steps, where it has any."""
        spec = self.models[model]
        own = {key: getattr(spec, key, None) for key in ("seed", "steps")}
        return self.model_copy(update={k: value for k, value in own.items() if value is not None})


class Embed(Section):
    """Target embeddings: the concept's, and those of every window of k encoder tokens."""

    encoder: str = Field(min_length=1, description="all-MiniLM-L6-v2, a folder, or a hub id")
    k: PositiveInt = Field(description="window length in encoder tokens")
    partial: PositiveInt | None = Field(
        description="fewest encoder tokens of a window at a text's end, where fewer than k are "
        "left; null: windows of k alone"
    )
    descriptions: list[str] = Field(
        description="more texts for the concept, besides its name; {name} stands for the name"
    )
    corpus_descriptions: Annotated[int, Field(ge=0)] = Field(
        description="texts of the forget corpus that describe the concept too, chosen by hash"
    )
    retain_texts: Annotated[int, Field(ge=0)] = Field(description="retain texts to align on")
    window_share: Annotated[float, Field(gt=0, le=1)] = Field(
        description="share of the distinct windows to encode and to align on, chosen by hash"
    )
    batch_size: PositiveInt
    reference_compat: bool = Field(
        description="frame the concept, not the windows, which start inside words"
    )

    @property
    def fewest(self) -> int:
        """Encoder tokens that a window has at least."""
        return self.k if self.partial is None else self.partial

    @model_validator(mode="after")
    def _ordered(self) -> Embed:
        if self.fewest > self.k:
            raise ValueError(f"partial = {self.partial} is more than k = {self.k}")
        if self.reference_compat and self.partial is not None:
            raise ValueError(
                f"partial = {self.partial}: reference_compat has windows of k alone; give null"
            )
        return self


class Align(Section):
    """The embedding predictor and its training on the frozen model."""

    hook_layers: list[PositiveInt] = Field(
        min_length=1, description="hidden_states indices, each read by a predictor of its own"
    )
    choose: Literal["all", "skill", "tracing"] = Field(
        description="keep all hook layers, or one: that of the best predictor on held-out "
        "texts, or that where causal tracing restores most"
    )
    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    feedforward: PositiveInt
    dropout: Annotated[float, Field(ge=0, lt=1)]
    steps: PositiveInt
    batch_tokens: PositiveInt = Field(description="padded tokens per step")
    learning_rate: PositiveFloat
    warmup: Share = Field(description="share of steps; none with reference_compat")
    clip: PositiveFloat
    held_out: Annotated[float, Field(gt=0, lt=1)] = Field(description="share of texts to score on")
    reference_compat: bool = Field(
        description="a predictor that sees the whole sequence, its layers alike at first, at a "
        "constant rate"
    )

    @field_validator("hook_layers")
    @classmethod
    def _distinct(cls, values: list[int]) -> list[int]:
        if len(set(values)) != len(values):
            raise ValueError("lists a layer twice; remove one")
        return values

    def predictor(self, input_dim: int, output_dim: int) -> PredictorConfig:
        """The sizes of a predictor from hidden states of one size to embeddings of another."""
        return PredictorConfig(
            input_dim=input_dim,
            output_dim=output_dim,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            feedforward=self.feedforward,
            dropout=self.dropout,
            sees_future=self.reference_compat,
        )


class Span(Section):
    """A number between two ends."""

    low: float
    high: float
    log: bool = Field(description="draw evenly in the logarithm")

    @model_validator(mode="after")
    def _ordered(self) -> Span:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"low {self.low} must be below high {self.high}, above 0 with `log`")
        return self


class Choices(Section):
    """One of these values."""

    choices: list[Plain] = Field(min_length=2)


Space = Annotated[
    Annotated[Span, Tag("[span]")] | Annotated[Choices, Tag("[choices]")],
    told_by("choices", "[choices]", "[span]"),
]
"""What is searched of a value."""


class Search(Section):
    """The same number of trials for every method, scored on `select` questions only."""

    targets: list[str] = Field(
        min_length=1,
        description="every trial is run on the first; none need be one of grid.targets",
    )
    finalists: PositiveInt = Field(
        description="of each method's trials so many, those with the best scores on the first "
        "target, are run on the other targets too; the best mean over all targets is chosen"
    )
    seed: Seed = Field(description="of the sampler, and of alignment and unlearning in a trial")
    trials: PositiveInt | None = Field(
        description="trials per method; null: every combination of its choices once"
    )
    first: Literal["settings", "drawn"] = Field(
        description="whether the first trial has the entry's own values, which somebody chose, or "
        "is drawn as the others are; of no effect where all are tried"
    )
    relearn: Any = Field(
        description="a fine-tune, as the attack of this name, on some facts about the target after "
        "every run, to be asked for the others (`select` questions): a run's score is then "
        "`lasting_selection`, which falls by what comes back; null: it is `selection`"
    )
    common: dict[str, Space] = Field(
        description="what is searched of every method in `spaces`, by dotted key of its entry, "
        "where it has that key and its own space says nothing of it"
    )
    spaces: dict[Slug, dict[str, Space | None]] = Field(
        description="per key of unlearn.methods what is searched besides, by dotted key of its "
        "entry (`train`: whole sections); null keeps the entry's value; methods that are not here "
        "keep their entry: {} searches nothing"
    )

    @field_validator(RELEARN)
    @classmethod
    def _parse(cls, value: Any) -> Any:
        known = {RELEARN: attacks.get(RELEARN)}
        return None if value is None else parse_settings("search.relearn", "attack", known, value)

    @field_validator("targets")
    @classmethod
    def _composed(cls, values: list[str]) -> list[str]:
        return _names(values)

    def requests(self) -> list[Target]:
        """The targets as requests."""
        return [Target((name,)) for name in self.targets]


class Unlearn(Section):
    """The methods; each entry names its loss and carries that loss's settings."""

    probes: PositiveInt = Field(description="select probes per role at a trajectory point")
    keep: Literal["last", "best"] = Field(
        description="which point of the trajectory is kept; best by the score `selection`"
    )
    reference_compat: bool = Field(
        description="pads in the loss, labels shifted twice, optimizers rebuilt, no eval mode"
    )
    methods: dict[Slug, Any]

    def compat(self, settings: Any) -> bool:
        """Whether a method with these settings behaves as the reference implementation does."""
        own = getattr(settings, "reference_compat", None)
        return self.reference_compat if own is None else own

    @field_validator("methods")
    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {
            name: parse_entry("unlearn.methods", "loss", methods.registry(), name, value)
            for name, value in values.items()
        }


class Rephrase(Section):
    """Greedy answers to every probe."""

    max_new_tokens: PositiveInt
    batch_size: PositiveInt


class BenchmarkSource(Section):
    """Where one more utility benchmark comes from."""

    kind: Literal["mmlu", "wmdp", "bbh", "truthfulqa", "truthfulqa_mc2", "triviaqa", "hub"] = Field(
        description="a file of RWKU's schema of this kind, or `hub`: a task of lm-eval's own"
    )
    path: str = Field(min_length=1, description="the JSON file; for `hub` the task's name")

    @model_validator(mode="after")
    def _named(self) -> BenchmarkSource:
        # lm-eval takes a path for a task file, and a task file can name Python code to run.
        plain = re.fullmatch(r"\w[\w.+:-]*", self.path) and not self.path.endswith(
            (".yaml", ".yml")
        )
        if self.kind == "hub" and not plain:
            raise ValueError(f"{shown(self.path)} is no name of a task: lm-eval would take a file")
        return self


OWN_SCORES = (
    "choice", "generate", "fluency", "distinct_tokens", "repetition", "nats_per_token",
    "perplexity", "collapsed",
)  # fmt: skip
"""Names of utility scores that no further benchmark may take."""


ABOUT_A_TASK = ("_n", "_truncated", "_invalid")
"""Endings of the scores that say how a task was asked."""


class Utility(Section):
    """lm-eval tasks, fluency, and when a model counts as collapsed."""

    benchmarks: dict[Slug, BenchmarkSource] = Field(
        description="tasks besides the world's own, by the name that tables show; none: {}"
    )

    @field_validator("benchmarks")
    @classmethod
    def _free(cls, values: dict[str, BenchmarkSource]) -> dict[str, BenchmarkSource]:
        taken = [name for name in values if name in OWN_SCORES or name.endswith(ABOUT_A_TASK)]
        if taken:
            raise ValueError(f"the name {taken[0]!r} is a score of ours; choose another")
        return values

    documents: PositiveInt = Field(description="documents per lm-eval task at most")
    batch_size: PositiveInt
    fluency_prompts: PositiveInt
    fluency_tokens: PositiveInt
    invalid_above: Share = Field(
        description="a task is INVALID when more than this share of its prompts was cut to the "
        "model's context"
    )
    collapse_below: Share = Field(
        description="COLLAPSED when generation, fluency or distinct tokens fall below this share "
        "of the original model's"
    )


class Privacy(Section):
    """Memorisation and membership inference, against the oracle."""

    batch_size: PositiveInt
    retain_texts: PositiveInt = Field(description="retain texts whose familiarity is measured")
    min_k: Annotated[float, Field(gt=0, le=1)] = Field(
        description="share of least likely tokens in Min-K and Min-K++; MUSE: 0.4"
    )
    gradient_texts: PositiveInt = Field(
        description="texts per corpus whose gradient norm is taken, one backward pass each"
    )
    verbatim_prompt: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="share of a passage's words that the model is given"
    )
    verbatim_tokens: PositiveInt = Field(description="tokens of continuation at most; MUSE: 128")


class AttackSection(Section):
    """Attacks on every checkpoint; each entry names its attack and carries its settings."""

    max_new_tokens: PositiveInt
    batch_size: PositiveInt
    attacks: dict[Slug, Any]

    @field_validator("attacks")
    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {
            name: parse_entry("attack.attacks", "attack", attacks.registry(), name, value)
            for name, value in values.items()
        }


LONGEST_NAME = 60
"""Characters of what a method is called: it stands at the side of tables and in legends."""


class Report(Section):
    """Tables, intervals and figures."""

    compare: Slug = Field(
        description="method that every other is compared with, item by item; a key of grid.methods"
    )
    bootstrap: PositiveInt = Field(description="resamples")
    confidence: Annotated[float, Field(gt=0, lt=1)]
    seed: Seed
    names: dict[Slug, str] = Field(
        default_factory=dict,
        description="what people call a key of unlearn.methods; others are called by their method, "
        "or by their key",
    )

    @field_validator("names")
    @classmethod
    def _told_apart(cls, values: dict[str, str]) -> dict[str, str]:
        for name in values.values():
            if (
                not name.strip()
                or not name.isprintable()
                or "|" in name
                or len(name) > LONGEST_NAME
            ):
                raise ValueError(
                    f"{shown(name)} must be one line of 1 to {LONGEST_NAME} characters, without |"
                )
        _apart(list(values.values()))
        return values


class Track(Section):
    """The MLflow mirror."""

    experiment: str = Field(min_length=1, description="MLflow experiment name")
    registered: list[Slug] = Field(
        description="methods whose models go into MLflow's registry; keys of grid.methods"
    )
    copy_weights: bool = Field(
        description="the store gets their folders too, as a server elsewhere must"
    )
