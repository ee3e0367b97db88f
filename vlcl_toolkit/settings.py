"""Settings are declared once, with type and range, and checked by pydantic wherever they come from.

A class of settings is a frozen pydantic dataclass below `Settings`; a field's type says what it may
be. What relates two settings is a model validator of the class, which raises `UserError` itself.
"""

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from reprlib import repr as short_repr
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass, is_pydantic_dataclass
from pydantic.errors import PydanticInvalidForJsonSchema

from vlcl_toolkit.errors import UserError, unknown_name

# A count has an upper bound, so that a slip is refused before memory for it is wanted.
Count = Annotated[int, Field(ge=1, le=10**8)]
"""Of what comes one after another: steps, epochs, images of a task."""
CountOrZero = Annotated[int, Field(ge=0, le=10**8)]
Size = Annotated[int, Field(ge=1, le=2**16)]
"""Of what is held at once: a batch, a layer's width, a list of texts."""
Few = Annotated[int, Field(ge=1, le=1000)]
"""Of what has parameters in every block: experts, prompt positions."""
FewOrZero = Annotated[int, Field(ge=0, le=1000)]

Rate = Annotated[float, Field(ge=0, le=1e30)]
"""A learning rate, the weight of a term of the loss, or a weight decay."""
Factor = Annotated[float, Field(ge=1e-6, le=1e6)]
"""A scale, a divisor or a temperature: neither 0 nor so large that float32 overflows."""
Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]

# Nothing is converted but whole numbers to floats; a word is no number, and True is not 1.
_STRICT = ConfigDict(
    strict=True,
    extra="forbid",
    allow_inf_nan=False,
    validate_default=True,
    arbitrary_types_allowed=True,
)
_BOUNDS = {
    "minimum": "of at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
_NOUNS = {"integer": "a whole number", "number": "a number", "string": "a text"}
_NOUNS |= {"boolean": "True or False", "null": "None", "array": "a list", "object": "a mapping"}
AnySettings = TypeVar("AnySettings")


@dataclass(frozen=True, config=_STRICT)
class Settings:
    """Base of all settings; building one with an unfit value raises `UserError`."""

    @model_validator(mode="wrap")
    @classmethod
    def _in_one_line(cls, values: Any, build: Any) -> Any:
        try:
            return build(values)
        except ValidationError as error:
            raise _told(cls, error) from None


def build_settings(cls: type[AnySettings], values: Mapping[Any, Any]) -> AnySettings:
    """Settings from keywords; a plain dataclass is checked by its annotations too.

    Raises:
        UserError: an unknown name, or a value that does not fit.
    """
    values = {str(name): value for name, value in values.items()}
    if is_pydantic_dataclass(cls):
        return cls(**values)  # type: ignore[return-value]
    frozen = cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    below = types.new_class(cls.__name__, (cls,))  # pydantic leaves the user's own class alone
    checking: Any = dataclass(below, config=_STRICT, frozen=frozen)
    try:
        checked = checking(**values)
    except ValidationError as error:
        raise _told(checking, error) from None
    given = {field.name for field in fields(cls) if field.init}  # type: ignore[arg-type]
    return cls(**{name: getattr(checked, name) for name in given})


def _allowed(cls: type, name: str) -> str:
    """What a setting may be, in words; "" if its type cannot be put into words."""
    try:
        schema = TypeAdapter(cls).json_schema()
    except PydanticInvalidForJsonSchema:
        return ""
    return _in_words(schema["properties"][name])


def _in_words(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_in_words(option) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " or ".join(map(repr, schema.get("enum", [schema.get("const")])))
    bounds = [f"{word} {_number(schema[key])}" for key, word in _BOUNDS.items() if key in schema]
    noun = _NOUNS.get(schema.get("type", ""), "another value")
    inner = schema.get("additionalProperties")
    of = f" from names to {_in_words(inner)}" if isinstance(inner, dict) else ""
    if {"minimum", "maximum"} <= schema.keys():
        bounds = [f"from {_number(schema['minimum'])} to {_number(schema['maximum'])}"]
    return " ".join([noun + of, *[" and ".join(bounds)] * bool(bounds)])


def _number(bound: int | float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


def _told(cls: type, error: ValidationError) -> UserError:
    # What is wrong with the first setting that does not fit.
    # An unknown name comes first: misspelt, a setting is missing too.
    wrong = error.errors(include_url=False)
    first = min(wrong, key=lambda one: one["type"] != "unexpected_keyword_argument")
    if not first["loc"]:  # raised by a check of the class's own
        return UserError(first["msg"])
    name, found = str(first["loc"][0]), first["input"]
    known = {field.name: field for field in fields(cls)}
    if first["type"] == "unexpected_keyword_argument":
        return unknown_name("setting", name, known)
    if first["type"] == "missing":
        return UserError(f"{name} has no default; set it")
    wanted = _allowed(cls, name)
    text = f"{name} must be {wanted}; " if wanted else f"{name}: {first['msg']}; "
    text += f"found {short_repr(found)}"
    if _is_number(found) and "number" in wanted:
        return UserError(f"{text}, a text; write a number (YAML reads 3e-4 as text: write 3.0e-4)")
    default = known[name].default
    return UserError(text if default is MISSING else f"{text}; the default is {default!r}")


def _is_number(text: Any) -> bool:
    if not isinstance(text, str):
        return False
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
