"""DIKI and prefix tuning: what they promise, and the mistakes they name."""

from dataclasses import replace

import pytest
import torch
from small_methods import SMALL, begin, learn
from tiny import tiny_clip, tiny_stream

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods import make_method
from vlcl_toolkit.methods.diki.gaussians import TaskGaussians, decide, prompt_weight
from vlcl_toolkit.streams import ImageData
from vlcl_toolkit.training.loader import load_step
from vlcl_toolkit.training.loop import run

SETTINGS = SMALL["diki"]
METHODS = ["diki", "prefix_tuning"]


def attached(name="diki", clip=None, **settings):
    """A method on a tiny backbone."""
    method = make_method(name, clip or tiny_clip(), SETTINGS | settings)
    method.attach()
    return method


def test_images(task, clip):
    return clip.eval_transform(task.test.images)


test_images.__test__ = False


# Promises


def test_an_untrained_task_leaves_the_frozen_clip_exactly(clip, stream):
    images = test_images(stream[0], clip)
    zero_shot = make_method("zero_shot", clip).predict(images, stream[0])
    first = clip.encode_text(clip.tokenize(stream[0].prompts()))
    frozen = clip.logits(clip.encode_image(images), first)
    method = attached(clip=clip, templates="all")
    begin(method, 0, stream[0])
    with torch.no_grad():
        assert torch.equal(method.logits(images, stream[0], 0), frozen)
    assert torch.equal(method.predict(images, stream[0]), zero_shot)


def test_prefix_tuning_disturbs_the_frozen_clip_before_it_is_trained(clip, stream):
    """The interference that DIKI avoids: values of 0 still take attention from the tokens."""
    images = test_images(stream[0], clip)
    frozen = clip.encode_image(images)
    method = attached("prefix_tuning", clip)
    begin(method, 0, stream[0])
    disturbed = method.towers.image_features(images, 0)
    assert (disturbed - frozen).norm(dim=1).min() > 1e-4
    silenced = method.towers.image_features(images, 0, torch.zeros(len(images)))
    torch.testing.assert_close(silenced, frozen, rtol=0, atol=1e-6)


def test_without_a_prompt_the_backbone_is_itself_while_attached(clip, stream):
    images = test_images(stream[0], clip)
    before = clip.encode_image(images)
    method = attached(clip=clip)
    learn(method, 0, stream[0])
    assert torch.equal(clip.encode_image(images), before)


@pytest.mark.parametrize("name", METHODS)
def test_old_tasks_do_not_change_by_one_bit(name, stream):
    method = attached(name)
    learn(method, 0, stream[0])
    old = {key: value.clone() for key, value in method.state_dict().items()}
    images = test_images(stream[0], method.clip)
    logits = method.logits(images, stream[0], 0)
    learn(method, 1, stream[1], seed=1)
    new = method.state_dict()
    assert len(method.pool) == len(method.gaussians) == 2
    for key, value in old.items():
        if key.startswith("prompts."):
            assert torch.equal(new[key], value), key
    for key in ("gaussians.means", "gaussians.covariances"):
        assert torch.equal(new[key][:1], old[key]), key
    assert torch.equal(method.logits(images, stream[0], 0), logits)
    moved = [value for key, value in new.items() if key.startswith("prompts.1.")]
    assert all(value[1].any() for value in moved), "every value prompt of the new task was trained"


def test_the_prompts_of_one_task_are_all_that_is_trained(stream):
    method = attached()
    begin(method, 0, stream[0])
    vision, text = (2, 3, 64), (2, 2, 8)  # the tiny towers have two blocks each
    shapes = {name: tuple(value.shape) for name, value in method.trainable().items()}
    assert shapes == {
        "visual.transformer.resblocks.0": vision,
        "visual.transformer.resblocks.1": vision,
        "transformer.resblocks.0": text,
        "transformer.resblocks.1": text,
    }
    for value in method.trainable().values():
        assert value[0].abs().max() <= 1
        assert value[0].std() > 0.3
        assert not value[1].any()


def test_prompts_go_into_the_first_blocks_only(clip, stream):
    method = attached(clip=clip, depth_vision=1, depth_text=0)
    begin(method, 0, stream[0])
    assert list(method.trainable()) == ["visual.transformer.resblocks.0"]


def test_keys_follow_the_generator(stream):
    starts = []
    for seed in (0, 0, 1):
        method = attached()
        begin(method, 0, stream[0], seed)
        starts.append(method.trainable()["transformer.resblocks.0"].detach().clone())
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_training_shuffles_and_does_not_augment(stream):
    method = attached()
    begin(method, 0, stream[0])
    batch = load_step(method, stream[0], 0, seed=3)
    plain = method.clip.eval_transform(stream[0].train.images)
    for image, label in zip(batch.images, batch.labels, strict=True):
        same = [i for i, other in enumerate(plain) if torch.equal(image, other)]
        assert any(stream[0].train.labels[i] == label for i in same)


# The best epoch


def with_accuracies(method, monkeypatch, accuracies):
    """Validation that returns recorded numbers, and the prompts at each time it was asked."""
    seen, remaining = [], iter(accuracies)

    def validate():
        seen.append({name: value.detach().clone() for name, value in method.trainable().items()})
        return next(remaining)

    monkeypatch.setattr(method, "_validate", validate)
    return seen


@pytest.mark.parametrize(
    ("accuracies", "best"), [([50, 80, 80], 1), ([90, 1, 2], 0), ([0, 0, 0], 0)]
)
def test_the_first_best_epoch_is_kept(stream, monkeypatch, accuracies, best):
    method = attached()
    seen = with_accuracies(method, monkeypatch, [float(value) for value in accuracies])
    learn(method, 0, stream[0])
    assert len(seen) == 3
    assert (method.best.epochs, method.best.accuracies) == ([best], [max(accuracies)])
    for name, value in method.trainable().items():
        assert torch.equal(value, seen[best][name])


def test_the_last_epoch_is_kept_without_selection(stream, monkeypatch):
    method = attached(select_epoch=False)
    monkeypatch.setattr(method, "_validate", lambda: pytest.fail("nothing to validate"))
    learn(method, 0, stream[0])
    assert method.best.epochs == [-1]


def test_the_last_epoch_is_kept_without_a_validation_set(stream, monkeypatch):
    empty = ImageData(torch.empty(0, 3, 32, 32, dtype=torch.uint8), torch.empty(0).long())
    task = replace(stream[0], validation=empty)
    method = attached()
    learn(method, 0, task)
    assert method.best.epochs == [-1]
    assert all(value[1].any() for value in method.trainable().values())


# Decisions


LOG_PROBS = torch.tensor([[9, 0, 1], [8, 0, 2], [0, 7, 3], [0, 6, 4], [0, 0, 5]]).double()


def decided(log_probs, rule):
    return decide(log_probs, prompt_weight(log_probs, 4.0, 4.0), rule)


def test_sample_decisions_are_each_images_own():
    found = decided(LOG_PROBS, "sample")
    assert found.task.tolist() == [0, 0, 1, 1, 2]
    expected = torch.sigmoid(torch.tensor([9, 8, 7, 6, 5]) / 4 - 1)
    torch.testing.assert_close(found.image_weight, expected)
    assert torch.equal(found.text_weight, found.image_weight)


def test_a_batch_votes_and_a_tie_goes_to_the_lowest_task():
    found = decided(LOG_PROBS, "batch")
    assert found.task.tolist() == [0] * 5, "two votes each for tasks 0 and 1"
    assert decided(LOG_PROBS[1:], "batch").task.tolist() == [1] * 4
    own = decided(LOG_PROBS, "sample")
    assert torch.equal(found.image_weight, own.image_weight), "weights come from the own best task"
    torch.testing.assert_close(found.text_weight, own.image_weight.mean().expand(5))


def test_a_group_shares_the_weight_of_its_texts():
    found = decided(LOG_PROBS, "group")
    own = decided(LOG_PROBS, "sample")
    assert torch.equal(found.task, own.task)
    pair, rest = own.image_weight[:4].view(2, 2).mean(dim=1), own.image_weight[4:]
    torch.testing.assert_close(found.text_weight, torch.cat((pair.repeat_interleave(2), rest)))


def test_without_calibration_all_weights_are_one():
    for rule in ("sample", "batch", "group"):
        found = attached(decision=rule, calibrate=False)
        learn(found, 0)
        found = found.decide(LOG_PROBS)
        assert found.image_weight.tolist() == found.text_weight.tolist() == [1.0] * 5


def test_a_quantile_of_validation_images_opens_the_gate(stream):
    method = attached(calibration="quantile", calibration_quantile=0.25)
    learn(method, 0, stream[0])
    seen = method.gaussians.log_probs(method._features_of(stream[0].validation))[:, 0]
    threshold, median = seen.quantile(0.25), seen.median()
    spread = (median - threshold) / 4
    weight = method.task_weights(torch.stack((threshold, median, threshold - spread))[:, None])
    torch.testing.assert_close(weight[:, 0], torch.tensor([0.0, 4.0, -1.0]).sigmoid())
    other = attached(calibration="quantile", calibration_quantile=0.25)
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.task_weights(seen[:, None]), method.task_weights(seen[:, None]))


def test_one_validation_image_is_a_quantile_too(stream):
    method = attached(calibration="quantile")
    learn(method, 0, replace(stream[0], validation=stream[0].validation.subset(torch.tensor([0]))))
    assert method.gaussians.calibrations[0][1] == 0.25


def test_a_quantile_needs_validation_images_and_its_own_weights(stream):
    nothing = stream[1].validation.subset(torch.tensor([], dtype=torch.int64))
    method = attached(calibration="quantile")
    few = replace(stream, tasks=(stream[0], replace(stream[1], validation=nothing)))
    with pytest.raises(UserError, match=r"validation images of every task; found none of food;"):
        method.enter_stream(few)
    learn(method, 0, stream[0])
    official = attached()
    learn(official, 0, stream[0])
    for one, state in ((official, method.state_dict()), (method, official.state_dict())):
        with pytest.raises(UserError, match="does not fit these weights"):
            one.load_state_dict(state)


def test_the_divisor_can_be_the_dimension(stream):
    method = attached(calibration_divisor=None)
    learn(method, 0, stream[0])
    found = method.decide(torch.tensor([[32.0]]).double())
    torch.testing.assert_close(found.image_weight, torch.sigmoid(torch.tensor([32 / 16 - 1])))


@pytest.mark.parametrize("decision", ["sample", "batch", "group"])
def test_the_record_names_the_decision(tmp_path, stream, decision):
    config = SETTINGS | {"epochs": 1, "decision": decision}
    result = run("diki", stream, tiny_clip(), out=tmp_path, config=config, progress=False)
    assert result.config["decision"] == decision


# Gaussians of few images


def features(count, dim, seed=0):
    values = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + 1
    return values / values.norm(dim=1, keepdim=True)


def test_too_few_images_say_what_to_do():
    with pytest.raises(UserError, match=r"'pets' has 16 .* needs 17; set shrinkage to 'auto'"):
        TaskGaussians().add(features(16, 16), "pets")
    with pytest.raises(UserError, match="at least 2"):
        TaskGaussians("auto").add(features(1, 16), "pets")


def test_shrinkage_keeps_the_variance_and_conditions_the_covariance():
    plain, half, full = TaskGaussians(allow_singular=True), TaskGaussians(0.5), TaskGaussians(1.0)
    for gaussians in (plain, half, full):
        gaussians.add(features(10, 16), "pets")
    traces = [gaussians.covariances[0].trace() for gaussians in (plain, half, full)]
    torch.testing.assert_close(traces[0].expand(3), torch.stack(traces))
    assert torch.linalg.cond(plain.covariances[0]) > 1e4
    assert torch.linalg.cond(half.covariances[0]) < 100
    torch.testing.assert_close(full.covariances[0], full.covariances[0][0, 0] * torch.eye(16))


def test_estimated_shrinkage_falls_with_the_number_of_images():
    few, many = TaskGaussians("auto"), TaskGaussians("auto")
    few.add(features(12, 16), "few")
    many.add(features(2000, 16), "many")
    exact = TaskGaussians()
    exact.add(features(2000, 16), "many")
    difference = (many.covariances[0] - exact.covariances[0]).norm() / exact.covariances[0].norm()
    assert difference < 0.1
    new = features(50, 16, seed=1)
    assert few.log_prob(new, 0).isfinite().all()
    assert few.log_prob(new, 0).mean() > -100, "no explosion on new images"


def test_a_singular_covariance_is_named():
    gaussians = TaskGaussians(allow_singular=True)
    gaussians.add(features(20, 16), "pets")
    gaussians.covariances[0] = -torch.eye(16)
    with pytest.raises(UserError, match="not positive definite"):
        gaussians.log_prob(features(2, 16), 0)


# Runs


@pytest.mark.parametrize("name", METHODS)
def test_a_run_trains_the_prompts_of_one_task_at_a_time(name, stream, clip, tmp_path):
    result = run(name, stream, clip, out=tmp_path, config=SETTINGS, progress=False)
    assert result.trainable_parameters == 2 * (2 * 3 * 64 + 2 * 2 * 8)
    assert result.history.groupby("task").size().to_dict() == {"pets": 9, "food": 9}


def test_it_learns(tmp_path):
    config = SETTINGS | {"epochs": 10, "learning_rate": 1.0, "shrinkage": "auto"}
    result = run("diki", tiny_stream(), tiny_clip(), out=tmp_path, config=config, progress=False)
    for _, losses in result.history.groupby("task")["loss"]:
        assert losses.iloc[-3:].mean() < losses.iloc[:3].mean()  # three steps per epoch


# Mistakes


def test_prediction_before_any_task_is_named(clip, stream):
    method = attached(clip=clip)
    with pytest.raises(UserError, match="no task was learned yet"):
        method.predict(test_images(stream[0], clip), stream[0])
    with pytest.raises(UserError, match="no task was learned yet"):
        method.classify(stream[0].test, stream[0])


@pytest.mark.parametrize("task_id", [-1, 1, 7])
def test_task_ids_out_of_range_are_named(stream, task_id):
    method = attached()
    learn(method, 0, stream[0])
    with pytest.raises(UserError, match=f"task ids run from 0 to 0; found {task_id}"):
        method.logits(test_images(stream[0], method.clip), stream[0], task_id)


def test_tasks_are_learned_in_order(stream):
    method = attached()
    with pytest.raises(UserError, match="learn task 0 next"):
        begin(method, 1, stream[1])


def test_a_detached_method_does_not_classify(stream):
    method = attached()
    learn(method, 0, stream[0])
    method.detach()
    with pytest.raises(UserError, match="attach"):
        method.predict(test_images(stream[0], method.clip), stream[0])


def test_too_few_training_images_stop_a_run_before_training(tmp_path):
    stream = tiny_stream().few_shot(2)
    with pytest.raises(UserError, match=r"'pets' has 6 training images, too few"):
        run("diki", stream, tiny_clip(), out=tmp_path / "a", config=SETTINGS, progress=False)
    config = SETTINGS | {"shrinkage": "auto"}
    result = run("diki", stream, tiny_clip(), out=tmp_path / "b", config=config, progress=False)
    assert result.complete


def test_a_state_of_other_settings_is_refused(stream):
    method = attached()
    learn(method, 0, stream[0])
    state = method.state_dict()
    for settings in ({"length_vision": 4}, {"depth_text": 1}):
        with pytest.raises(UserError, match="another backbone or depth"):
            attached(**settings).load_state_dict(state)
    halves = {key: v for key, v in state.items() if not key.startswith("gaussians.")}
    with pytest.raises(UserError, match="prompts of 1 tasks and Gaussians of 0"):
        attached().load_state_dict(halves)
    narrow = state | {
        "gaussians.means": torch.zeros(1, 4),
        "gaussians.covariances": torch.eye(4)[None],
    }
    with pytest.raises(UserError, match="features have 16 dimensions"):
        attached().load_state_dict(narrow)


def test_a_state_holds_the_epochs_that_were_kept(stream):
    method, other = attached(), attached()
    for index, task in enumerate(stream):
        learn(method, index, task)
    other.load_state_dict(method.state_dict())
    assert other.best.epochs == method.best.epochs
    other.enter_task(1, stream[1])
    assert list(other.trainable()) == list(method.trainable())
