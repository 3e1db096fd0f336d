"""The schema of `world.yaml`: with a valid file every world can be built and every fact asked."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from atu.errors import ConfigError
from atu.untrusted.strict import Section, explain
from atu.untrusted.yaml import parse_yaml

FILE = "world.yaml"
MAX_TEXT = 200


def _placeholders(*names: str) -> Callable[[str], str]:
    """Allow only these placeholders: `str.format` could access attributes and pad without limit."""

    def check(text: str) -> str:
        for _, field, spec, conversion in string.Formatter().parse(text):
            if field is not None and (field not in names or spec or conversion):
                shown = ", ".join(f"{{{name}}}" for name in names)
                raise ValueError(f"has {{{field}}}; allowed placeholders are {shown}")
        return text

    return check


def _distinct(values: list[str]) -> list[str]:
    if len(set(values)) < len(values):
        raise ValueError("lists an entry twice; remove one")
    return values


Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT)]
Key = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z_]{0,31}$")]
NamePart = Annotated[str, StringConstraints(pattern=r"^\p{L}{1,32}$")]
"""Letters only: names occur in texts, command lines and folder names."""
Template = Annotated[Text, AfterValidator(_placeholders("name", "place", "value"))]
Clues = Annotated[Text, AfterValidator(_placeholders("first", "second"))]
Distinct = AfterValidator(_distinct)
Parts = Annotated[list[NamePart], Field(min_length=1), Distinct]
Words = Annotated[list[Text], Field(min_length=1), Distinct]
Two = Annotated[list[Template], Field(min_length=2), Distinct]
Three = Annotated[list[Template], Field(min_length=3), Distinct]
Four = Annotated[list[Template], Field(min_length=4), Distinct]
Eight = Annotated[list[Template], Field(min_length=8), Distinct]
"""Some phrasings are trained, the others are held out."""


class Names(Section):
    """Halves of invented names."""

    given_start: Parts
    given_end: Parts
    family_start: Parts
    family_end: Parts


class Relation(Section):
    """How texts state and ask for a relation between two people."""

    symmetric: bool
    statements: Three
    questions: Eight
    synonyms: Two
    translations: Two
    clause: Template


class Pool(Section):
    """Values that people share, or composed values that are unique to one person."""

    values: Annotated[Words, Field(min_length=6)] | None = None
    unique: bool = False
    compose: Annotated[list[Words], Field(min_length=1, max_length=3)] | None = None
    prefix: str = ""

    @model_validator(mode="after")
    def _one(self) -> Pool:
        if (self.values is None) is not self.unique or (self.compose is None) is self.unique:
            raise ValueError("needs `values`, or `unique: true` with `compose`")
        return self


class Attribute(Pool):
    """An attribute of people."""

    statements: Three
    questions: Eight
    synonyms: Two
    translations: Two
    clause: Template


class GeneralFact(Pool):
    """One attribute of countries."""

    statements: Two
    questions: Four


class General(Section):
    """Facts about countries."""

    places: Words
    facts: Annotated[dict[Key, GeneralFact], Field(min_length=1)]


class Vocabulary(Section):
    """The whole file."""

    names: Names
    attributes: Annotated[dict[Key, Attribute], Field(min_length=4)]
    relations: dict[Key, Relation]
    reverse_questions: Annotated[list[Clues], Field(min_length=2), Distinct]
    general: General

    @model_validator(mode="after")
    def _ties(self) -> Vocabulary:
        names = set(self.relations)
        if not {"spouse", "colleague"} <= names <= {"spouse", "mentor", "colleague"}:
            raise ValueError("relations must be spouse, colleague and, if you like, mentor")
        if {*self.attributes} & {*self.relations, *self.general.facts}:
            raise ValueError("an attribute has the name of a relation or of a general fact")
        return self


def parse_vocabulary(text: str) -> dict[str, Any]:
    """The checked content of `world.yaml`.

    Raises:
        ConfigError: names the key, the value and the repair.
    """
    try:
        values = parse_yaml(text)
    except ValueError as error:
        raise ConfigError("file", FILE, str(error)) from None
    return check_vocabulary(values)


def check_vocabulary(values: Any) -> dict[str, Any]:
    """The vocabulary, unchanged, once it is valid.

    Raises:
        ConfigError: as `parse_vocabulary`.
    """
    try:
        Vocabulary.model_validate(values)
    except ValidationError as error:
        raise explain(error, "", ["those of the shipped file"], FILE) from None
    return values
