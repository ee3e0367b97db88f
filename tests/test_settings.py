"""Settings: what each may be, who checks it, and what the user is told."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
from pydantic.dataclasses import dataclass as pydantic_dataclass

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods import make_config, method_class, method_names
from vlcl_toolkit.methods.zscl.config import FinetuneConfig
from vlcl_toolkit.probes.config import ProbeConfig
from vlcl_toolkit.settings import Settings, build_settings
from vlcl_toolkit.training.execution import Execution

TRAINED = [name for name in method_names() if name != "zero_shot"]
SETTINGS = [*(method_class(name).Config for name in TRAINED), Execution, ProbeConfig]
NUMBERS = [
    (cls, field.name)
    for cls in SETTINGS
    for field in dataclasses.fields(cls)
    if re.search(r"\b(int|float)\b", str(field.type)) and "dict" not in str(field.type)
]
NO_NUMBER = [math.nan, math.inf, -math.inf, -1, -1e-9, -(10**9), "1", "3e-4", True, [1], {}]
LAYER = "bottleneck|code|length|experts|top_k|depth|freeze_top|batch_size|sentences"


def test_every_number_is_found():
    assert len(NUMBERS) > 100
    assert {name for cls, name in NUMBERS if cls is Execution} == {
        "devices",
        "accumulate",
        "workers",
        "log_every",
        "checkpoint_minutes",
    }


@pytest.mark.parametrize(("cls", "name"), NUMBERS, ids=lambda part: getattr(part, "__name__", part))
def test_what_no_training_can_mean_is_refused(cls, name):
    whole = "int" in str(next(f.type for f in dataclasses.fields(cls) if f.name == name))
    for value in [*NO_NUMBER, *([1.5, 10**12] if whole else [])]:
        with pytest.raises(UserError, match=rf"^{name} must be .*; found ") as told:
            cls(**{name: value})
        assert "\n" not in str(told.value)
    if re.search(LAYER, name):  # nothing of that size is allocated
        with pytest.raises(UserError, match=rf"^{name} must be"):
            cls(**{name: 10**6})


@pytest.mark.parametrize("cls", SETTINGS)
def test_defaults_fit_and_settings_are_frozen(cls):
    settings = cls()
    assert cls(**dataclasses.asdict(settings)) == settings
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.batch_size = 3


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("finetune", {"learning_rat": 1}, "unknown setting 'learning_rat'; did you mean 'learning"),
        ("finetune", {3: 1}, "unknown setting '3'"),
        ("finetune", {"learning_rate": "3e-4"}, "found '3e-4', a text; .* write 3.0e-4"),
        ("finetune", {"task_learning_rates": {"a": "1e-3"}}, "found '1e-3', a text"),
        ("finetune", {"task_learning_rates": {"a": -1}}, "a number from 0 to 1e\\+30; found -1"),
        ("finetune", {"iterations": 1.5}, "a whole number from 1 to 100,000,000; found 1.5"),
        ("finetune", {"warmup": 1000}, r"below iterations \(1000\); found 1000; lower warmup"),
        ("finetune", {"batch_size": 0}, "found 0; the default is 64"),
        ("finetune", {"label_smoothing": 1.0}, "a number of at least 0 and below 1; found 1.0"),
        ("finetune", {"eval_scale": 0}, r"from 1e-06 to 1e\+06 or None; found 0"),
        ("wise_ft", {"averaging": "swa"}, "'none' or 'ensemble' or .*; found 'swa'"),
        ("wise_ft", {"average_alpha": 1.5}, "a number from 0 to 1 or None; found 1.5"),
        ("wise_ft", {"average_towards": "last"}, "needs averaging='moving'; found 'wise_ft'"),
        ("zscl", {"temperature": 0}, "found 0; the default is 2.0"),
        ("zscl", {"alias_teacher": 1}, "alias_teacher must be True or False; found 1"),
        ("diki", {"shrinkage": 1.5}, "a number from 0 to 1 or 'auto'; found 1.5"),
        ("diki", {"shrinkage": "some"}, "found 'some'"),
        ("prefix_tuning", {"depth_vision": 0, "depth_text": 0}, "prompts need a block"),
        ("moe_adapters", {"top_k": 23}, r"top_k must be at most experts \(22\); found 23"),
        ("moe_adapters", {"freeze_top": 23}, r"freeze_top must be at most experts \(22\)"),
        ("moe_adapters", {"threshold": 0.0}, "a number above 0; found 0.0"),
        ("moe_adapters", {"threshold_quantile": 0}, "above 0 and at most 1 or None; found 0"),
        ("moe_adapters", {"selector": "none"}, "found shared_router=False; set shared_router=True"),
    ],
)
def test_the_error_names_method_setting_range_and_value(method, settings, message):
    with pytest.raises(UserError, match=f"^settings of {method}: .*{message}") as told:
        make_config(method, settings)
    assert "\n" not in str(told.value)


def test_settings_that_are_no_mapping():
    with pytest.raises(UserError, match="must be None, a mapping or FinetuneConfig; found int"):
        make_config("finetune", 3)


def test_a_whole_number_is_a_number():
    config = make_config("finetune", {"iterations": 500, "learning_rate": 1})
    assert (config.iterations, config.learning_rate, config.batch_size) == (500, 1, 64)
    assert isinstance(config.learning_rate, float)
    assert make_config("finetune", config) is config


# Settings of a user's own method


class Ink:
    """A type that pydantic does not know."""


@dataclasses.dataclass(frozen=True)
class Plain:
    """As in any program: no base, no library."""

    strength: float
    colour: str | None = None
    ink: Ink | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.strength > 10:
            raise ValueError("strength above 10")


@dataclasses.dataclass(frozen=True)
class Longer(FinetuneConfig):
    """A plain dataclass below ours."""

    strength: int = 1


def test_a_plain_dataclass_is_checked_by_its_annotations():
    built = build_settings(Plain, {"strength": 2, "ink": Ink(), "names": ("a",)})
    assert type(built) is Plain
    assert type(built.strength) is float
    for values, message in [
        ({"strength": "2"}, "strength.*; found '2'"),
        ({"strength": math.nan}, "strength.*; found nan"),
        ({"strength": 2, "ink": "blue"}, "ink.*instance of Ink; found 'blue'"),
        ({"strenght": 2}, "did you mean 'strength'"),
        ({"strength": 11}, "strength above 10"),
        ({}, "strength has no default; set it"),
    ]:
        with pytest.raises(UserError, match=message):
            build_settings(Plain, values)


def test_a_plain_dataclass_below_ours_is_checked_too():
    assert type(build_settings(Longer, {"strength": 2})) is Longer
    for values, message in [
        ({"strength": 1.5}, "strength must be a whole number; found 1.5"),
        ({"learning_rate": -1}, "learning_rate must be a number from 0 to 1e\\+30; found -1"),
        ({"warmup": 1000}, "below iterations"),
    ]:
        with pytest.raises(UserError, match=message):
            build_settings(Longer, values)


def test_a_wrong_default_is_found():
    @pydantic_dataclass(frozen=True)
    class Wrong(Settings):
        count: int = "three"

    with pytest.raises(UserError, match="count must be a whole number; found 'three'"):
        Wrong()


def test_no_module_of_settings_needs_torch():
    folder = Path(__file__).parents[1] / "vlcl_toolkit"
    files = [*folder.glob("methods/*/config.py"), folder / "settings.py"]
    assert len(files) > 4
    for path in [*files, folder / "training" / "execution.py"]:
        found = re.findall(
            r"^\s*(?:from|import) (torch|open_clip|jaxtyping)", path.read_text(), re.M
        )
        assert not found, path
