"""Methods by name, and their settings from keywords."""

import dataclasses
from collections.abc import Mapping
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.settings import build_settings

if TYPE_CHECKING:
    from vlcl_toolkit.clip.model import Clip
    from vlcl_toolkit.methods.base import Method

# The toolkit's own: where the method is and where its settings are. Both are imported when they are asked for, so that
# names and settings are known without torch.
_BUILT_IN = {
    "diki": ("diki.diki:Diki", "diki.config:PromptConfig"),
    "prefix_tuning": ("diki.prefix_tuning:PrefixTuning", "diki.config:PrefixConfig"),
    "dpw": ("dpw.dpw:Dpw", "dpw.config:DpwConfig"),
    "moe_adapters": (
        "moe_adapters.moe_adapters:MoEAdapters",
        "moe_adapters.config:MoEAdaptersConfig",
    ),
    "finetune": ("zscl.finetune:Finetune", "zscl.config:FinetuneConfig"),
    "zero_shot": ("zero_shot:ZeroShot", "zero_shot:ZeroShot.Config"),
    "rail": ("rail.rail:Rail", "rail.config:RailConfig"),
    "lora": ("low_rank.lora:Lora", "low_rank.config:LoraConfig"),
    "keeplora": ("low_rank.keeplora:KeepLora", "low_rank.config:KeepLoraConfig"),
    "nusa_cl": ("low_rank.nusa_cl:NusaCl", "low_rank.config:NusaClConfig"),
    "zscl": ("zscl.zscl:Zscl", "zscl.config:ZsclConfig"),
    "icarl": ("zscl.icarl:Icarl", "zscl.config:IcarlConfig"),
    "lwf": ("zscl.lwf:Lwf", "zscl.config:LwfConfig"),
    "lwf_vr": ("zscl.lwf:LwfVr", "zscl.config:LwfVrConfig"),
    "wise_ft": ("zscl.wise_ft:WiseFt", "zscl.config:WiseFtConfig"),
    "weight_ensemble": ("zscl.wise_ft:WeightEnsemble", "zscl.config:WeightEnsembleConfig"),
    "weight_consolidation": (
        "zscl.wise_ft:WeightConsolidation",
        "zscl.config:WeightConsolidationConfig",
    ),
}
_METHODS: dict[str, type["Method"]] = {}  # imported so far
MethodClass = TypeVar("MethodClass", bound=type)  # of a `Method`


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
    taken = (
        f"{__package__}.{_BUILT_IN[name][0]}" if name in _BUILT_IN else _place(_METHODS.get(name))
    )
    if taken not in (None, _place(cls)):
        raise UserError(
            f"method name {name!r} is taken by {taken.partition(':')[2]}; choose another"
        )
    _METHODS[name] = cls
    return cls


def _place(cls: "type[Method] | None") -> str | None:
    return None if cls is None else f"{cls.__module__}:{cls.__qualname__}"


def method_names() -> tuple[str, ...]:
    """The registered names, the toolkit's own first."""
    from vlcl_toolkit.load import load_plugins  # imports torch

    load_plugins()
    return tuple(dict.fromkeys((*_BUILT_IN, *_METHODS)))


def method_class(method: "str | type[Method]") -> "type[Method]":
    """The class of a name (a class is returned as it is).

    Raises:
        UserError: unknown name.
    """
    if isinstance(method, type):
        return method
    if method in _BUILT_IN:
        return _import(_BUILT_IN[method][0])
    if method not in _METHODS and method not in method_names():
        raise unknown_name("method", method, method_names())
    return _METHODS[method]


def config_class(method: "str | type[Method]") -> type:
    """The class of a method's settings.

    Raises:
        UserError: unknown name.
    """
    if isinstance(method, str) and method in _BUILT_IN:
        return _import(_BUILT_IN[method][1])
    return method_class(method).Config


def _import(place: str) -> Any:
    module, _, name = place.partition(":")
    return attrgetter(name)(import_module(f"{__package__}.{module}"))


def make_config(method: "str | type[Method]", config: Any = None) -> Any:
    """A method's settings.

    Args:
        config: None (the paper's defaults), a mapping that overrides some of them, or an instance
            of the method's `Config`.

    Raises:
        UserError: an unknown setting, a value that does not fit, another method's config.
    """
    cls, name = config_class(method), method if isinstance(method, str) else method.name
    if isinstance(config, cls):
        return config
    if config is None:
        config = {}
    if not isinstance(config, Mapping):
        wanted = f"None, a mapping or {cls.__qualname__}"
        raise UserError(f"settings of {name} must be {wanted}; found {type(config).__name__}")
    try:
        return build_settings(cls, config)
    except UserError as error:
        raise UserError(f"settings of {name}: {error}") from None


def make_method(method: "str | type[Method]", clip: "Clip", config: Any = None) -> "Method":
    """A method on a backbone, not yet attached; `config` as in `make_config`."""
    return method_class(method)(clip, make_config(method, config))
