"""Methods by name, and their settings from keywords."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.methods.base import Method
from vlcl_toolkit.settings import build_settings

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
        UserError: an unknown setting, a value that does not fit, another method's config.
    """
    cls = method_class(method)
    if isinstance(config, cls.Config):
        return config
    if config is None:
        config = {}
    if not isinstance(config, Mapping):
        wanted = f"None, a mapping or {cls.Config.__qualname__}"
        raise UserError(f"settings of {cls.name} must be {wanted}; found {type(config).__name__}")
    try:
        return build_settings(cls.Config, config)
    except UserError as error:
        raise UserError(f"settings of {cls.name}: {error}") from None


def make_method(method: str | type[Method], clip: Clip, config: Any = None) -> Method:
    """A method on a backbone, not yet attached; `config` as in `make_config`."""
    return method_class(method)(clip, make_config(method, config))
