"""Methods by name, and their settings from keywords."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.methods.base import Method

_METHODS: dict[str, type[Method]] = {}
MethodClass = TypeVar("MethodClass", bound=type[Method])


def register(cls: MethodClass) -> MethodClass:
    """Class decorator: make a `Method` known by its `name`.

    Running a notebook cell again replaces the class of the same name from the same module.

    Raises:
        UserError: `name` or `Config` is missing or unfit, or the name belongs to another class.
    """
    name, config = getattr(cls, "name", None), getattr(cls, "Config", None)
    if not isinstance(name, str) or not name:
        raise UserError(f"{cls.__name__} needs a class attribute `name`, a short text; add it")
    if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
        raise UserError(f"{cls.__name__} needs a class attribute `Config`, a dataclass; add it")
    known = _METHODS.get(name)
    if known and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise UserError(f"method name {name!r} is taken by {known.__qualname__}; choose another")
    _METHODS[name] = cls
    return cls


def method_names() -> tuple[str, ...]:
    """The registered names."""
    return tuple(_METHODS)


def method_class(method: str | type[Method]) -> type[Method]:
    """The class of a name (a class is returned as it is).

    Raises:
        UserError: unknown name.
    """
    if isinstance(method, type):
        return method
    if method not in _METHODS:
        raise unknown_name("method", method, _METHODS)
    return _METHODS[method]


def make_config(method: str | type[Method], config: Any = None) -> Any:
    """A method's settings.

    Args:
        config: None (the paper's defaults), a mapping that overrides some of them, or an instance
            of the method's `Config`.

    Raises:
        UserError: an unknown setting, a value of the wrong type or range, another method's config.
    """
    cls = method_class(method)
    if isinstance(config, cls.Config):
        return config
    if config is None:
        config = {}
    if not isinstance(config, Mapping):
        wanted = f"None, a mapping or {cls.Config.__qualname__}"
        raise UserError(f"settings of {cls.name} must be {wanted}; found {type(config).__name__}")
    hints = typing.get_type_hints(cls.Config)
    values = {}
    for key, value in config.items():
        if key not in hints:
            raise unknown_name(f"setting of {cls.name}", key, hints)
        if not _fits(value, hints[key]):
            wanted = getattr(hints[key], "__name__", str(hints[key]))
            raise UserError(f"setting {key} of {cls.name} must be {wanted}; found {value!r}")
        options = typing.get_args(hints[key]) or (hints[key],)
        only_float = type(value) is int and float in options and int not in options
        values[key] = float(value) if only_float else value
    return cls.Config(**values)


def make_method(method: str | type[Method], clip: Clip, config: Any = None) -> Method:
    """A method on a backbone, not yet attached; `config` as in `make_config`."""
    return method_class(method)(clip, make_config(method, config))


def _fits(value: object, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in arguments)
    if origin is typing.Literal:
        return value in arguments
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or hint)
