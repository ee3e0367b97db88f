"""`vlcl recipe`: the protocols, and whole dry runs of them on imitation data."""

import re

import pytest
from imitation_data.write import write_imitations
from tiny import random_images, tiny_clip

from vlcl_toolkit import UserError, load_clip, make_method
from vlcl_toolkit.cli import main
from vlcl_toolkit.experiments import published_runs as protocol
from vlcl_toolkit.experiments.published_runs import (
    find_recipe,
    recipes,
    training_images,
    training_steps,
)
from vlcl_toolkit.experiments.reproduce import (
    DRY_RUN_BACKBONE,
    DRY_RUN_SETTINGS,
    full_scale,
    recipe_stream,
    run_recipe,
)
from vlcl_toolkit.load import stream_names
from vlcl_toolkit.streams import Task
from vlcl_toolkit.training.results import RunResult

BACKBONE = "random:ViT-B-16-quickgelu:depth=1,width=64,pixels=16,dim=16"
MINUTES = {"epochs": 1, "batch_size": 256, "shrinkage": "auto", "learning_rate": 20.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_imitations(tmp_path_factory.mktemp("data"))


# The recipes


def test_every_recipe_is_whole():
    for name, recipe in recipes().items():
        assert recipe.name == name
        assert recipe.stream in stream_names()
        assert recipe.config() is not None
        assert (recipe.backbone, recipe.pretrained) == ("ViT-B-16-quickgelu", "openai")


def test_papers_are_reproduced_on_their_own_terms():
    diki = find_recipe("mtil-order-I/diki")
    assert (diki.split, diki.config().decision) == ("coop", "batch")
    zscl = find_recipe("mtil-order-II/zscl")
    assert (zscl.stream, zscl.split, zscl.reference, zscl.captions) == (
        "mtil-II",
        None,
        "imagenet",
        True,
    )
    assert zscl.config().task_learning_rates == {"Aircraft": 5e-5, "MNIST": 5e-5}
    assert find_recipe("mtil-order-I/zscl_star").config().weight_consolidation == 0
    assert find_recipe("mtil-order-I/zscl").config().weight_consolidation == 1
    few = find_recipe("mtil-5shot/moe_adapters").config()
    assert (few.iterations, few.threshold, few.selector_learning_rate) == (500, 0.06, 0.003)
    assert find_recipe("cifar100-10/moe_adapters").config().batch_size == 128
    assert find_recipe("cifar100-50/moe_adapters").config().batch_size == 64
    tiny = find_recipe("tinyimagenet-10/moe_adapters").config()
    assert (tiny.batch_size, tiny.experts, tiny.selector) == (64, 2, "none")
    selector = [few.selector_iterations, few.selector_reference_iterations]
    assert few.selector_batches_per_epoch * 10 > max(selector)  # a constant rate
    for name in ("imagenet100-10/zscl", "imagenet100-b50-10/zscl"):
        config = find_recipe(name).config()
        assert (config.learning_rate, config.batch_size) == (7e-6, 128)
        assert config.cut_long_texts
    assert find_recipe("cifar100-10/zscl").config().cut_long_texts
    assert find_recipe("imagenet1000-10/zscl").config().batch_size == 128
    dual = find_recipe("xtail-order-I/rail_dual")
    assert (dual.method, dual.stream, dual.config().form) == ("rail", "xtail-16shot", "dual")
    odcl = find_recipe("odcl-order-I/moe_adapters")
    assert (odcl.stream, odcl.label_space, odcl.merge_shared_names) == ("mtil", "odcl", True)


def test_training_images_are_the_published_ones():
    assert training_images(find_recipe("mtil-order-I/zscl"))[:3] == [3334, 6941, 50000]
    assert training_images(find_recipe("mtil-order-I/diki"))[:3] == [3334, 4128, 40000]
    assert training_images(find_recipe("mtil-order-II/zscl"))[0] == 8144
    assert training_images(find_recipe("mtil-16shot/diki")) == [
        16 * classes for classes in (100, 100, 100, 47, 102, 101, 196, 397)
    ]
    assert training_images(find_recipe("tinyimagenet-10/zscl")) == [50000] + [5000] * 10
    assert training_images(find_recipe("imagenet100-10/zscl")) is None


def test_steps_of_a_whole_run():
    assert training_steps(find_recipe("mtil-order-I/zscl")) == 11 * 1001
    assert training_steps(find_recipe("mtil-order-I/zscl"), {"iterations": 200}) == 11 * 201
    assert training_steps(find_recipe("mtil-order-I/zero_shot")) == 0
    assert training_steps(find_recipe("mtil-order-I/nusa_cl")) == 11 * 1000
    sizes = training_images(find_recipe("mtil-order-II/keeplora"))
    epochs = [5, 2, 5, 5, 5, 5, 10, 10, 10, 10, 10]
    steps = sum(e * -(-n // 64) for e, n in zip(epochs, sizes, strict=True))
    assert training_steps(find_recipe("mtil-order-II/keeplora")) == steps
    plus = find_recipe("mtil-order-I/keeplora_plus").config()
    assert (plus.classifier, plus.epochs, plus.task_epochs) == (True, 5, {})
    assert training_steps(find_recipe("cifar100-10/moe_adapters")) == 10 * 41
    assert training_steps(find_recipe("imagenet100-10/zscl")) is None


@pytest.mark.parametrize(
    "name",
    [
        "mtil-order-I/finetune",
        "mtil-order-I/diki",
        "mtil-order-I/lora",
        "mtil-order-I/keeplora",
        "cifar100-10/zscl",
        "cifar100-10/moe_adapters",
    ],
)
def test_steps_are_those_that_the_method_takes(name, monkeypatch):
    recipe, counts = find_recipe(name), [20, 129]
    monkeypatch.setattr(protocol, "training_images", lambda _: counts)
    method = make_method(recipe.method, tiny_clip(), recipe.config())
    parts = [random_images(count, 2, seed=0) for count in counts]
    tasks = [Task(str(i), ("a", "b"), ("{}",), part, part, part) for i, part in enumerate(parts)]
    assert training_steps(recipe) == sum(method.steps(task) for task in tasks)


# Dry runs


def recipe_command(name, data, out, *more):
    settings = [f"{key}={value}" for key, value in MINUTES.items()]
    backbone = ["--backbone", BACKBONE, "--device", "cpu"]
    return main(
        [
            "recipe",
            name,
            "--data",
            str(data),
            "--unverified",
            *backbone,
            "--out",
            str(out),
            *more,
            "--set",
            *settings,
        ]
    )


@pytest.mark.slow
def test_all_eleven_tasks_stopped_and_resumed(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    name = "mtil-order-I/diki"
    assert recipe_command(name, data, tmp_path / "a", "--stop-after", "4") == 0
    assert "the run is not finished" in capsys.readouterr().out
    assert not RunResult.load(tmp_path / "a").complete
    assert recipe_command(name, data, tmp_path / "a") == 0
    output = capsys.readouterr().out
    result = RunResult.load(tmp_path / "a")
    assert result.complete
    assert len(result.order) == 11
    assert result.config["backbone"]["name"] == BACKBONE
    assert "diki: this run beside diki_I (NOT verified), percent" in output
    assert re.search(r"mean .* 68\.7 .* 76\.3 .* 85\.1", output)
    assert "split 'coop'" in output
    assert "label space 'task'" in output
    assert "the data sets were not checked against the published sizes" in output


def test_a_dry_run_needs_imitations_alone(data, tmp_path):
    command = ["recipe", "mtil-order-I/moe_adapters", "--data", str(data), "--dry-run"]
    assert main([*command, "--stop-after", "1", "--out", str(tmp_path / "dry")]) == 0
    config = RunResult.load(tmp_path / "dry").config
    assert config["backbone"]["name"] == DRY_RUN_BACKBONE
    assert config["method_config"]["iterations"] == 2
    assert "unverified" in config["split_id"]


@pytest.mark.parametrize(
    ("name", "space", "classes"),
    [
        ("xtail-order-I/rail", "all", "of all tasks of the stream"),
        ("odcl-order-I/zero_shot", "odcl", "of all tasks so far"),
    ],
)
def test_runs_that_are_not_told_the_task(name, space, classes, data, tmp_path, capsys):
    command = ["recipe", name, "--data", str(data), "--dry-run", "--stop-after", "1"]
    assert main([*command, "--out", str(tmp_path / "dry")]) == 0
    config = RunResult.load(tmp_path / "dry").config
    assert config["label_space"] == space
    assert config["merge_shared_names"] == (space == "odcl")
    assert (
        f"label space '{space}': an image is classified among the classes {classes}"
        in capsys.readouterr().out
    )


def test_interrupted_and_whole_runs_end_in_the_same_bytes(data, tmp_path):
    recipe = find_recipe("mtil-order-II/diki")
    stream = recipe_stream(recipe, root=data, verify=False).subset(["MNIST", "DTD", "EuroSAT"])
    clip = load_clip(BACKBONE, device="cpu")
    options = {"stream": stream, "clip": clip, "settings": MINUTES, "progress": False}
    run_recipe(recipe, out=tmp_path / "whole", **options)
    stopped = run_recipe(recipe, out=tmp_path / "stopped", stop_after=1, **options)
    assert not stopped.complete
    assert run_recipe(recipe, out=tmp_path / "stopped", **options).complete
    for file in ("accuracy.csv", "history.jsonl"):
        whole = (tmp_path / "whole" / file).read_bytes()
        assert (tmp_path / "stopped" / file).read_bytes() == whole


def test_reference_material_is_found_and_steps_are_compared(data, tmp_path):
    settings = {"warmup": 1, "epochs": 1, "batch_size": 32, "learning_rate": 1e-3}
    clip = load_clip(BACKBONE, device="cpu")
    stream = recipe_stream(find_recipe("cifar100-10/zscl"), root=data, verify=False)
    options = {"stream": stream, "clip": clip, "settings": settings, "progress": False}
    first = run_recipe("cifar100-10/zscl", out=tmp_path / "zscl", stop_after=2, **options)
    assert first.accuracy.notna().all(axis=1).sum() == 3  # zero-shot and two tasks
    assert {"image_distillation", "text_distillation"} & set(first.history)


def test_full_scale_is_a_dry_run_unless_data_are_named(data, monkeypatch, tmp_path):
    monkeypatch.delenv("VLCL_DATA", raising=False)
    dry = full_scale(data)
    assert (dry.data, dry.dry_run, dry.settings("diki")) == (data, True, DRY_RUN_SETTINGS["diki"])
    assert "-unverified-" in dry.stream(find_recipe("mtil-order-I/zero_shot")).split_id
    monkeypatch.setenv("VLCL_DATA", str(tmp_path))
    real = full_scale(data)
    assert (real.backbone, real.pretrained) == ("ViT-B-16-quickgelu", "openai")
    assert (real.data, real.settings("diki")) == (tmp_path, {})


# Lists


def test_list_shows_cost_and_published_results(capsys):
    assert main(["recipe", "--list"]) == 0
    output = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in output.splitlines() if line.strip()}
    assert lines["mtil-order-I/zscl"][1:] == ["11,011", "68.1", "75.4", "83.6", "47.24?"]
    assert lines["mtil-order-I/diki"][1:] == ["15,030", "68.7?", "76.3?", "85.1?", "4.4?"]
    assert lines["cifar100-10/moe_adapters"][1:] == ["410", "85.2", "77.5"]
    assert "mtil-order-I/zscl: Thunderbeee/ZSCL mtil/results/t3_7.npy" in output
    assert set(recipes()) <= set(lines)
    assert max(map(len, output.split("Sources")[0].splitlines())) <= 80


# Mistakes


def mistake(capsys, *arguments):
    assert main(["recipe", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_mistakes_are_told_in_one_line(capsys, tmp_path):
    assert "`vlcl recipe --list` shows them" in mistake(capsys)
    assert "did you mean 'mtil-order-I/diki'" in mistake(capsys, "mtil-order-1/diki")
    line = mistake(capsys, "mtil-order-I/diki", "--set", "epoch=3")
    assert "settings of diki: unknown setting 'epoch'; did you mean 'epochs'" in line
    line = mistake(capsys, "mtil-order-I/diki", "--data", str(tmp_path))
    assert "Aircraft is not complete" in line


@pytest.mark.parametrize(
    ("name", "sets", "message"),
    [
        (
            "mtil-order-I/zscl",
            (),
            r"reference sentences: .*Validation_GCC.*tsv is missing; fetch it from ai.google",
        ),
        (
            "mtil-order-I/zscl",
            ("ConceptualCaptions",),
            r"reference images: ImageNet is not .*register at image-net",
        ),
        (
            "mtil-order-I/moe_adapters",
            (),
            r"reference images: TinyImageNet is not complete: .*cs231n.stanford",
        ),
        ("tinyimagenet-5/zscl", (), r"needs reference sentences"),
    ],
)
def test_missing_reference_material_is_named_before_anything_is_read(name, sets, message, tmp_path):
    root = write_imitations(tmp_path, ["MNIST", *sets])
    with pytest.raises(UserError, match=message) as caught:
        recipe_stream(find_recipe(name), root=root)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_captions_without_their_images(tmp_path):
    root = write_imitations(tmp_path, ["ConceptualCaptions", "CIFAR100"])
    images = root / "conceptual_captions/images"
    for path in images.iterdir():
        path.unlink()
    images.rmdir()
    with pytest.raises(UserError, match=rf"the folder {images} is missing; fetch the images"):
        recipe_stream(find_recipe("cifar100-10/zscl"), root=root)
    stream = recipe_stream(
        find_recipe("cifar100-10/zscl"), root=root, reference="none", verify=False
    )
    assert stream.reference is None


def test_stop_after_counts_tasks():
    with pytest.raises(UserError, match="stop_after counts tasks, at least 1; found 0"):
        run_recipe("mtil-order-I/diki", stop_after=0)


@pytest.mark.parametrize("name", ["mtil-order-I/zero_shot", "xtail-order-I/zero_shot"])
def test_only_the_chosen_data_sets_have_to_be_there(name, tmp_path, capsys):
    root = write_imitations(tmp_path / "data", ["DTD", "EuroSAT"])
    command = ["recipe", name, "--data", str(root), "--dry-run", "--out", str(tmp_path / "run")]
    assert main(command) == 2
    assert main([*command, "--tasks", "EuroSAT,DTD"]) == 0
    result = RunResult.load(tmp_path / "run")
    assert result.order == ["EuroSAT", "DTD"]
    assert "2 tasks were learned, 1" in capsys.readouterr().out
