"""The settings of a ZSCL case: from official flags, or from the plain words beside them."""

from dataclasses import dataclass
from typing import Any

IMAGENET = ("ImageNet", "ImageNetSM", "ImageNetSUB")
# Official flags that change no number of a case: where files are, what is logged or tested when, the
# size of a reference set that the case brings itself, and one that is parsed and never used.
WITHOUT_EFFECT = {
    *("data_location", "save", "load", "exp_name", "workers", "model", "seed", "num", "fair"),
    *("train_dataset", "eval_datasets", "eval_interval", "eval_every_epoch", "loss_interval"),
}


@dataclass
class Settings:
    """A method's name and config, and what the runner itself has to know."""

    method: str
    config: dict[str, Any]
    batch_size: int
    reference_batch_size: int
    start: str = "zeroshot"
    tasks: tuple[str, ...] = ()
    template: str = ""


def training_settings(record: dict[str, Any], hyper: dict[str, Any]) -> Settings:
    """Of a "zscl_train" case."""
    flags, plain = record.get("command_flags", {}), record.get("config", {})
    if "extra" in flags:
        config, unused = _from_flags(_parse(flags["extra"]), hyper)
        assert not unused, f"unknown official flags {unused}"
        start = flags.get("first_load") or "zeroshot"
    else:
        config = _from_words(plain, hyper)
        start = {"zero_shot": "zeroshot", "previous_weights": "prev"}[plain["start"]]
    config["random_sentences"] = flags.get("vv", 1000)
    return Settings(
        method=_named(config),
        config=_fitting(config),
        batch_size=config["batch_size"],
        reference_batch_size=hyper["rb"],
        start=start,
        tasks=tuple(flags.get("tasks") or plain["tasks"]),
    )


def _parse(extra: list[str]) -> dict[str, Any]:
    """["--l2", "1", "--we"] -> {"l2": "1", "we": True}"""
    flags: dict[str, Any] = {}
    for word, after in zip(extra, [*extra[1:], "--"], strict=True):
        if word.startswith("--"):
            key = word.removeprefix("--").replace("-", "_")
            flags[key] = True if after.startswith("--") else after
    return flags


def _common(hyper: dict[str, Any]) -> dict[str, Any]:
    return {
        "learning_rate": hyper["lr"],
        "iterations": hyper["it"],
        "warmup": hyper["wu"],
        "batch_size": hyper["bs"],
        "label_smoothing": hyper.get("ls", 0.2),
        "weight_decay": hyper.get("wd", 0.0),
        "eval_scale": 100.0,
        "reference_images": "none",
        "weight_consolidation": 0.0,
        "averaging": "none",
    }


def _from_flags(
    flags: dict[str, Any], hyper: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Our settings, and the flags that were not understood."""
    take = flags.pop
    config = _common(hyper)
    for flag, key, kind in (
        ("lr", "learning_rate", float),
        ("wd", "weight_decay", float),
        ("ls", "label_smoothing", float),
        ("iterations", "iterations", int),
        ("warmup_length", "warmup", int),
        ("batch_size", "batch_size", int),
        ("l2", "weight_consolidation", float),
        ("avg_freq", "average_every", int),
    ):
        if flag in flags:
            config[key] = kind(take(flag))
    config |= _averaging(flags)
    method = take("method", "finetune")
    images, sentences = take("ref_dataset", None), take("ref_sentences", None)
    datasets, model = take("text_datasets", None), take("ref_model", None)
    wise, share = take("ref_wise", False), float(take("ref_wise_alpha", 0.8))
    halved = take("weight_adjust", False)
    sides = {name: take(name, False) for name in ("image_loss", "text_loss")}
    extras = {name: take(name, False) for name in ("feature_mse", "ablation_loss_2")}
    temperature = float(take("T", 2.0))
    for flag in WITHOUT_EFFECT & flags.keys():
        take(flag)
    mode = take("train_mode", "whole")
    assert mode == "whole", f"no settings for train mode {mode}"
    assert method in ("finetune", "ZSCL"), f"no settings for method {method}"
    if method == "ZSCL":
        if datasets is not None:
            texts = "seen_prompts"
        elif sentences is None:
            texts = "class_names" if images in IMAGENET else "task_prompts"
        else:
            texts = {"random": "random", "conceptual_captions": "sentences"}.get(
                sentences, "class_names" if sentences in IMAGENET else "task_prompts"
            )
        config |= {
            "reference_images": "reference" if images in IMAGENET else "task",
            "reference_texts": texts,
            "teacher": "previous" if model else "mixture" if wise else "zero_shot",
            "teacher_mixture": share,
            "image_side": bool(sides["image_loss"]),
            "text_side": "teacher" if sides["text_loss"] else "off",
            "feature_distance": bool(extras["feature_mse"]),
            "image_image": bool(extras["ablation_loss_2"]),
            "distillation_weight": 0.5 if halved else 1.0,
            "temperature": temperature,
        }
    return config, flags


def _averaging(flags: dict[str, Any]) -> dict[str, Any]:
    """The rule that decides what is saved: an ensemble goes before WiSE-FT."""
    ensemble, wise = flags.pop("we", False), flags.pop("we_wise", False)
    ensemble_share = float(flags.pop("we_wise_alpha", 0.98))
    moving, decay = flags.pop("moving_avg", False), float(flags.pop("mv_avg_decay", 0.999))
    towards = flags.pop("mv_avg_model", "n")
    merge, share = flags.pop("wise_merge", False), float(flags.pop("wise_ft_alpha", 0.8))
    merge_towards = flags.pop("wise_ft_model", "n")
    names = {"n": "task_start", "t": "last", "zeroshot": "zero_shot"}
    if moving:
        return {
            "averaging": "moving",
            "average_alpha": decay,
            "average_towards": names[towards],
        }
    if ensemble:
        return {"averaging": "ensemble"}
    if wise:
        return {"averaging": "ensemble_wise", "average_alpha": ensemble_share}
    if merge:
        return {
            "averaging": "wise_ft",
            "average_alpha": share,
            "average_towards": names[merge_towards],
        }
    return {}


def _from_words(plain: dict[str, Any], hyper: dict[str, Any]) -> dict[str, Any]:
    config = _common(hyper) | {"weight_consolidation": plain.get("weight_consolidation", 0.0)}
    averaging, distillation = plain.get("averaging"), plain.get("distillation")
    if averaging:
        kinds = {
            "weight_ensemble": "ensemble",
            "weight_ensemble_wise": "ensemble_wise",
            "wise_ft": "wise_ft",
            "moving_average": "moving",
        }
        config["averaging"] = kinds[averaging["kind"]]
        config["average_every"] = averaging.get("every", 100)
        config["average_alpha"] = averaging.get("alpha")
        config["average_towards"] = averaging.get("towards", "task_start")
    if distillation:
        texts = {
            "captions": "sentences",
            "imagenet_names": "class_names",
            "random_sentences": "random",
        }
        config |= {
            "reference_images": distillation["images"],
            "reference_texts": texts.get(distillation["texts"], distillation["texts"]),
            "teacher": distillation["teacher"],
            "image_side": distillation["image_side"],
            "text_side": "teacher" if distillation["text_side"] else "off",
            "feature_distance": distillation["feature_mse"],
            "image_image": distillation["image_image"],
            "distillation_weight": distillation["weight"],
            "temperature": distillation["temperature"],
        }
    return config


def class_incremental_settings(record: dict[str, Any], hyper: dict[str, Any]) -> Settings:
    """Of a "zscl_cil" case: fixed warm-up, one epoch, the teacher aliased but for ZSCL."""
    flags = record["command_flags"]
    official = flags["method"]
    ensemble = official == "ZSCL" and flags.get("we") is not None
    config = _common(hyper) | {
        "learning_rate": flags.get("lr", hyper["lr"]),
        "label_smoothing": flags.get("ls", 0.2),
        "weight_decay": flags.get("wd", 0.0),
        "epochs": 1,
        "warmup": 30,
        "weight_consolidation": float(flags.get("l2") or 0.0),
        "averaging": "ensemble" if ensemble else "none",
        "average_every": flags.get("avg_freq", 2),
        "eval_scale": None,
    }
    config["negatives"] = "previous" if flags.get("ce") == "previous" else "none"
    sources = {"ZSCL": "reference", "lwf": "task", "lwfvr": "task", "iCaRL": "memory"}
    texts = {"conceptual_captions": "sentences", "random": "random", None: "task_prompts"}
    if official in sources:
        config |= {
            "reference_images": sources[official],
            "reference_texts": "random" if official == "lwfvr" else texts[flags.get("refs")],
            "teacher": "zero_shot" if official == "ZSCL" else "previous",
            "alias_teacher": official != "ZSCL",
            "distillation_weight": 5.0,
            "random_sentences": flags.get("vv", 9),
        }
    else:
        assert official == "finetune", f"no settings for class-incremental {official}"
    if official == "iCaRL":
        config |= {"memory_size": flags.get("K", 5000), "faithful_memory": True}
    return Settings(
        method={"lwf": "lwf", "lwfvr": "lwf_vr", "iCaRL": "icarl"}.get(official, "zscl"),
        config=config,
        batch_size=hyper["bs"],
        reference_batch_size=hyper["rb"],
        template="a bad photo of a {}.",
    )


def _named(config: dict[str, Any]) -> str:
    """The method whose parts these settings use."""
    averaging, consolidation = config["averaging"], config["weight_consolidation"]
    if config["reference_images"] != "none":
        texts = {"task_prompts": "lwf", "random": "lwf_vr"}
        lwf = config["reference_images"] == "task" and config["teacher"] == "previous"
        return texts.get(config["reference_texts"], "zscl") if lwf else "zscl"
    if averaging == "ensemble":
        return "weight_ensemble"
    if averaging != "none":
        return "wise_ft"
    return "weight_consolidation" if consolidation else "finetune"


def _fitting(config: dict[str, Any]) -> dict[str, Any]:
    """Settings that the chosen method has."""
    name = _named(config)
    distilling = {
        "reference_images",
        "reference_texts",
        "teacher",
        "teacher_mixture",
        "image_side",
        "text_side",
        "feature_distance",
        "image_image",
        "distillation_weight",
        "temperature",
        "random_sentences",
    }
    space = {"weight_consolidation", "averaging", "average_every", "average_alpha"}
    space |= {"average_towards"}
    unfit = set()
    if name in ("finetune", "wise_ft", "weight_ensemble", "weight_consolidation"):
        unfit |= distilling
    if name == "finetune":
        unfit |= space
    return {key: value for key, value in config.items() if key not in unfit}
