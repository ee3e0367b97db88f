"""LoRA, KeepLoRA and NuSA-CL: what their products and subspaces promise."""

import math

import pytest
import torch
from small_methods import attached, begin, learn, weights
from tiny import tiny_clip, tiny_stream

from vlcl_toolkit import run
from vlcl_toolkit.clip.weights import hash_weights
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods import make_method
from vlcl_toolkit.methods.low_rank.branches import MODULES
from vlcl_toolkit.methods.low_rank.nusa_cl import null_space
from vlcl_toolkit.methods.low_rank.subspaces import (
    BatchMean,
    SecondMoment,
    extended_basis,
    first_basis,
    gram,
    outside,
)
from vlcl_toolkit.methods.schedules import one_cycle
from vlcl_toolkit.training.events import StepEvent, StopRun

NAMES = ["lora", "keeplora", "nusa_cl"]
each_method = pytest.mark.parametrize("name", NAMES)


def asked(method, index=0):
    """Test images of a task, and the task."""
    task = tiny_stream()[index]
    return method.clip.eval_transform(task.test.images), task


def stacked(method):
    """Attention weights by place."""
    return {place: b.stacked_weights() for place, b in method.branches.places.items()}


@each_method
def test_a_task_starts_at_the_model_before_it(name):
    method, plain = attached(name), attached("zero_shot")
    images, task = asked(method)
    if name == "keeplora":
        method.config = make_method(name, tiny_clip(), {"test_templates": "all"}).config
    expected = plain.predict(images, task)
    begin(method)
    torch.testing.assert_close(method.predict(images, task), expected, rtol=0, atol=2e-5)
    learn(method)
    learned = method.predict(images, task)
    assert (learned - expected).abs().max() > 1e-2
    begin(method, 1)
    torch.testing.assert_close(method.predict(images, task), learned, rtol=0, atol=2e-5)


@each_method
def test_merged_is_what_the_branches_gave(name):
    method = attached(name)
    images, task = asked(method)
    found = {}

    def each(step):
        found["branches"] = method.predict(images, task)

    learn(method, each=each)
    assert not method.branches.active
    assert not any(f.any() for b in method.branches.places.values() for f in b.factors.values())
    torch.testing.assert_close(method.predict(images, task), found["branches"], rtol=0, atol=2e-5)


@each_method
def test_only_attention_changes_and_only_by_the_rank(name):
    method = attached(name)
    untouched = {
        key: value.clone()
        for key, value in method.clip.model.state_dict().items()
        if not key.endswith(("in_proj_weight", "out_proj.weight"))
    }
    before = stacked(method)
    learn(method)
    state = method.clip.model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in untouched.items())
    for place, after in stacked(method).items():
        for change in after - before[place]:
            values = torch.linalg.svdvals(change)
            assert values[0] > 1e-5
            assert values[3:].max() < 1e-3 * values[0]


@pytest.mark.parametrize("tower", ["image", "text"])
@each_method
def test_one_tower_alone(name, tower):
    method = attached(name, towers=tower)
    learn(method)
    assert all(place.startswith("visual.") == (tower == "image") for place in stacked(method))
    other = "transformer." if tower == "image" else "visual."
    frozen, now = tiny_clip().model.state_dict(), method.clip.model.state_dict()
    same = [torch.equal(frozen[key], now[key]) for key in frozen if key.startswith(other)]
    assert all(same)


@each_method
def test_trains_as_many_parameters_as_it_says(name):
    counts = {"lora": lambda w: 2 * 3 * w, "keeplora": lambda w: 3 * w, "nusa_cl": lambda w: 9}
    method = attached(name)
    begin(method)
    expected = sum(4 * 2 * counts[name](width) for width in (64, 8))
    assert sum(p.numel() for p in method.trainable().values()) == expected


@each_method
def test_a_rank_above_a_tower_is_refused_in_one_line(name):
    with pytest.raises(UserError, match=r"^rank must be at most .* text tower, 8; found 9; lower"):
        attached(name, rank=9)
    clip = tiny_clip()
    with pytest.raises(UserError, match="at most"):
        attached(name, clip, rank=9)
    assert clip.holder is None
    assert hash_weights(clip.model) == clip.weights_sha256
    attached(name, clip).detach()
    assert hash_weights(clip.model) == clip.weights_sha256


def test_dropout_is_for_training_alone():
    method = attached("lora", dropout=0.5)
    images, task = asked(method)

    def each(step):
        assert method.branches.dropout == 0
        assert torch.equal(method.predict(images, task), method.predict(images, task))

    learn(method, each=each)
    with pytest.raises(UserError, match="warmup must be below iterations"):
        attached("lora", warmup=6)


@each_method
def test_training_images_are_not_augmented(name):
    method = attached(name)
    task = begin(method)
    request = method.batch_requests(task, 0, seed=0)["labelled"]
    assert request.transform is method.clip.eval_transform
    assert len(request.indices) == 8


def test_learning_rate_of_lora_warms_up_and_falls():
    method = attached("lora", iterations=100, warmup=5, learning_rate=1.0)
    rates = [method.learning_rate(step, tiny_stream()[0]) for step in range(100)]
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert rates[99] == pytest.approx(0.5 * (1 + math.cos(math.pi * 94 / 95)))
    assert method.steps(tiny_stream()[0]) == 100


# NuSA-CL.


def test_null_space_is_what_lies_behind_the_cutoff():
    weight = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5]))
    left, right = null_space(weight, 0.9, 4)  # 9 / 14.25 and 13 / 14.25 of the squared sum
    for vectors in (left, right):
        expected = torch.tensor([[0.0, 0, 1, 0], [0, 0, 0, 1]]).T
        torch.testing.assert_close(vectors.abs(), expected)
    left, right = null_space(weight, 0.9, 1)
    torch.testing.assert_close(right.abs(), torch.tensor([[0.0], [0], [0], [1]]))
    assert null_space(weight, 1.0, 4)[0].shape == (4, 0)


def test_nusa_cl_stays_in_the_null_space():
    method = attached("nusa_cl")
    before = stacked(method)
    begin(method)
    learn(method)
    for place, after in stacked(method).items():
        for weight, change in zip(before[place], after - before[place], strict=True):
            left, right = null_space(weight, method.config.cutoff, 3)
            rest = change - left @ (left.T @ change @ right) @ right.T
            assert rest.abs().max() < 1e-6


# KeepLoRA.


def test_a_change_stays_outside_of_the_bases():
    method = attached("keeplora", weight_share=0.5, feature_share=0.9, feature_share_text=0.5)
    sizes = []
    for index in range(2):
        task = begin(method, index)
        before, bases = stacked(method), dict(method.bases)
        places = method.branches.places
        for (
            place,
            branch,
        ) in places.items():  # from the model before the task, not from W - s (A B0)^T
            before[place] = before[place] + branch.scaling * (branch.a @ branch.b).mT.detach()
        torch.manual_seed(0)
        learn(method, index, task)
        for place, after in stacked(method).items():
            for change, basis in zip(after - before[place], bases[place], strict=True):
                inside = change @ basis  # what the change does to protected inputs
                assert inside.abs().max() < 1e-5 * max(1.0, float(change.abs().max()))
                torch.testing.assert_close(
                    basis.T @ basis, torch.eye(basis.shape[1]), rtol=0, atol=1e-5
                )
        sizes.append([basis.shape[1] for place in method.bases.values() for basis in place])
    assert all(a <= b for a, b in zip(*sizes, strict=True))
    assert sum(sizes[1]) > sum(sizes[0])


def test_what_a_protected_layer_computes_is_kept():
    matrix = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    basis = extended_basis(torch.zeros(12, 0), gram(matrix), 0.999999)
    basis = extended_basis(basis, gram(matrix), 0.999999)
    assert basis.shape == (12, 5)
    assert outside(matrix, basis).abs().max() < 1e-3
    assert extended_basis(basis, gram(matrix), 0.9) is basis
    assert extended_basis(basis, gram(torch.eye(12)), 1.0).shape == (12, 12)
    assert first_basis(gram(matrix), 0.0).shape == (12, 0)


def test_where_everything_is_protected_nothing_is_learned():
    method = attached("keeplora", weight_share=1.0, weight_share_text=1.0)
    method.bases = {
        place: [torch.eye(b.a.shape[1])] * len(MODULES)
        for place, b in method.branches.places.items()
    }
    before = stacked(method)
    learn(method)
    assert all(torch.equal(after, before[place]) for place, after in stacked(method).items())


def test_directions_in_which_the_gradient_is_rounding_are_left_out():
    # The last text block has a gradient at the end of each of three texts alone.
    found = {}
    for faithful in (False, True):
        method = attached("keeplora", rank=5, faithful_rank=faithful)
        begin(method)
        branch = method.branches.places["transformer.resblocks.1"]
        found[faithful] = [int(a.any(dim=0).sum()) for a in branch.a]
    assert found[True] == [5, 5, 5, 5]
    assert found[False][0] <= 3
    assert found[False][3] <= 3


def test_random_directions_instead_of_the_gradient():
    method = attached("keeplora", gradient_start=False)
    before = stacked(method)
    begin(method)
    assert all(torch.equal(after, before[place]) for place, after in stacked(method).items())
    for place, branch in method.branches.places.items():
        for a, basis in zip(branch.a, method.bases[place], strict=True):
            assert (basis.T @ a).abs().max() < 1e-5


def test_the_input_side_is_that_of_the_transposed_weight():
    method = attached("keeplora", weight_side="input")
    place, branch = next(iter(method.branches.places.items()))
    basis = method.weight_bases()[place][0]
    right = torch.linalg.svd(branch.stacked_weights()[0]).Vh[: basis.shape[1]]
    torch.testing.assert_close(basis @ basis.T, right.T @ right, rtol=0, atol=1e-5)


def test_second_moments_do_not_depend_on_batches_and_the_mean_does():
    x = torch.randn(8, 3, 4, generator=torch.Generator().manual_seed(0))
    found = {}
    for size in (2, 4, 8):
        mean, moment = BatchMean(), SecondMoment()
        for part in x.split(size):
            mean.add(part)
            moment.add(part)
        found[size] = mean.moments(), moment.moments()
    torch.testing.assert_close(found[2][1], found[8][1])
    assert (
        found[2][0] / found[2][0].trace() - found[8][0] / found[8][0].trace()
    ).abs().max() > 0.01
    torch.testing.assert_close(found[8][0] * 24**2, found[8][1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{"features": "second_moment"}, {"text_positions": "to_end"}, {"keep_incomplete": True}],
)
def test_other_features_protect_other_directions(settings):
    found = []
    for options in ({}, settings):
        method = attached("keeplora", feature_share=0.9, feature_share_text=0.6, **options)
        learn(method)
        found.append(method.bases)
    differs = [
        a.shape != b.shape or (a @ a.T - b @ b.T).abs().max() > 1e-4
        for place in found[0]
        for a, b in zip(found[0][place], found[1][place], strict=True)
    ]
    assert any(differs)


def test_passes_leave_an_incomplete_batch_out():
    task = tiny_stream()[0]  # 20 images
    method = attached("keeplora")
    assert [len(part) for part in method.passes(task, None)] == [8, 8]
    kept = attached("keeplora", keep_incomplete=True)
    assert [len(part) for part in kept.passes(task, None)] == [8, 8, 4]
    alone = attached("keeplora", batch_size=64)
    assert [len(part) for part in alone.passes(task, None)] == [20]


def test_one_cycle_is_torchs():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=37)
    for step in range(37):
        group = optimizer.param_groups[0]
        assert one_cycle(step, 37, 0.01) == pytest.approx((group["lr"], group["betas"][0]))
        optimizer.step()
        if step < 36:
            schedule.step()


def test_the_classifier_of_keeplora_plus_speaks_for_learned_classes():
    method = attached("keeplora", classifier=True)
    images, task = asked(method)
    other = tiny_stream()[1]
    learn(method)
    features = method.clip.encode_image(images)
    assert method.classifier_logits(features, method.stream[0]).abs().max() > 1
    assert not method.classifier_logits(features, other).any()
    copy = attached("keeplora", classifier=True)
    copy.load_state_dict(method.state_dict())
    assert torch.equal(copy.predict(images, task), method.predict(images, task))
    assert "classifier" in weights(method)


def test_keeplora_plus_resumes_in_the_middle_of_a_task(tmp_path):
    config = {"epochs": 2, "batch_size": 8, "rank": 3, "classifier": True}
    options = {"config": config, "progress": False}
    whole = run("keeplora", tiny_stream(), tiny_clip(), out=tmp_path / "whole", **options)

    def stop(event):
        if isinstance(event, StepEvent) and event.task_index == 1 and event.step == 3:
            raise StopRun

    run("keeplora", tiny_stream(), tiny_clip(), out=tmp_path / "halted", callback=stop, **options)
    resumed = run("keeplora", tiny_stream(), tiny_clip(), out=tmp_path / "halted", **options)
    assert resumed.accuracy.equals(whole.accuracy)
    for name in ("history.jsonl", "accuracy.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "halted" / name).read_bytes()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@each_method
def test_lower_precision_runs(name, precision):
    method = attached(name, tiny_clip(precision=precision))
    learn(method)
    images, task = asked(method)
    assert method.predict(images, task).isfinite().all()
    assert all(value.dtype == torch.float32 for value in method.state_dict().values())
