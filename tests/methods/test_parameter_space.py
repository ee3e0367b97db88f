"""WiSE-FT, weight ensemble, weight consolidation: what they promise, and the mistakes they name."""

import pytest
import torch
from small_methods import attached, begin, disturb, gradients, learn, prepared_batch, weights

from vlcl_toolkit.methods import make_method


def near(found, expected, **tolerance):
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, **tolerance, msg=lambda t, n=name: f"{n} {t}"
        )


@pytest.mark.parametrize("name", ["weight_ensemble", "zscl"])
def test_averaged_weights_are_the_mean_of_their_snapshots(name):
    method = attached(name, average_every=3)
    for index in range(2):
        snapshots = [weights(method)]
        learn(method, index, each=lambda step, s=snapshots: step % 3 or s.append(weights(method)))
        assert len(snapshots) == 4  # before the task, after steps 0, 3 and 6
        mean = {k: torch.stack([s[k] for s in snapshots]).mean(dim=0) for k in snapshots[0]}
        near(weights(method), mean, rtol=1e-5, atol=1e-7)


def test_the_student_goes_on_from_its_own_weights():
    plain, averaged = {}, {}
    for name, seen in (("finetune", plain), ("weight_ensemble", averaged)):
        settings = {"averaging": "none"} if name == "finetune" else {}
        method = attached("weight_ensemble", **settings)
        learn(method, each=lambda step, m=method, s=seen: s.update({step: weights(m)}))
    for step, values in plain.items():
        assert all(torch.equal(value, averaged[step][name]) for name, value in values.items())


@pytest.mark.parametrize("towards", ["task_start", "zero_shot"])
def test_wise_ft_interpolates_after_each_task(towards):
    method = attached("wise_ft", average_towards=towards)
    zero_shot = weights(method)
    for index in range(2):
        start, last = weights(method), {}
        learn(method, index, each=lambda step, w=last: w.update(weights(method)))
        other = start if towards == "task_start" else zero_shot
        expected = {name: 0.8 * last[name] + 0.2 * other[name] for name in last}
        near(weights(method), expected, rtol=1e-6, atol=1e-7)


def test_wise_ft_of_share_one_is_fine_tuning():
    method, plain = attached("wise_ft", average_alpha=1.0), attached("wise_ft", averaging="none")
    learn(method)
    learn(plain)
    assert all(torch.equal(w, weights(plain)[name]) for name, w in weights(method).items())


def test_ensemble_wise_shrinks_to_the_start():
    method = attached("weight_ensemble", averaging="ensemble_wise", average_alpha=0.9)
    start, snapshots = weights(method), []
    learn(method, each=lambda step: step % 3 or snapshots.append(weights(method)))
    mean = start
    for k, snapshot in enumerate(snapshots, start=1):
        mean = {n: (k * mean[n] + snapshot[n]) / (k + 1) for n in start}
        mean = {n: 0.9 * mean[n] + 0.1 * start[n] for n in start}
    near(weights(method), mean, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("towards", ["task_start", "zero_shot", "last"])
def test_moving_averages_pull_the_student(towards):
    method = attached(
        "weight_ensemble",
        averaging="moving",
        average_alpha=0.75,
        average_towards=towards,
        average_every=1,
    )
    begin(method)
    zero_shot = weights(method)
    disturb(method)
    moved = weights(method)
    method.after_step(0)
    near(weights(method), {n: 0.75 * moved[n] + 0.25 * zero_shot[n] for n in moved})
    pulled = weights(method)
    method.after_step(1)
    other = moved if towards == "last" else zero_shot
    near(weights(method), {n: 0.75 * pulled[n] + 0.25 * other[n] for n in moved})


def test_consolidation_pulls_back_to_the_start_of_the_task():
    free, held = attached("weight_consolidation", weight_consolidation=0.0), None
    held = attached("weight_consolidation", weight_consolidation=100.0)
    start = weights(free)
    moved = []
    for method in (free, held):
        learn(method)
        moved.append(sum(float((w - start[n]).square().sum()) for n, w in weights(method).items()))
    assert moved[1] < 0.5 * moved[0]


def test_consolidation_is_a_sum_and_has_no_gradient_at_the_start():
    method = attached("weight_consolidation", weight_consolidation=3.0)
    task = begin(method)
    batch = prepared_batch(method, task, 0, seed=0)
    terms = method.loss(batch)
    assert terms["consolidation"] == 0
    plain = gradients(method, terms["loss"])
    method.config = make_method("weight_consolidation", method.clip).config
    again = gradients(method, method.loss(batch)["loss"])
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    with torch.no_grad():
        method.trainable()["text_projection"].add_(0.5)
    size = method.trainable()["text_projection"].numel()
    assert float(method.loss(batch)["consolidation"]) == pytest.approx(0.25 * size)


def test_nothing_of_a_task_is_kept_after_it():
    method = attached("weight_ensemble", weight_consolidation=1.0)
    trained = set(method.trainable())
    learn(method)
    assert set(method.state_dict()) == trained
    begin(method, 1)
    extra = set(method.state_dict()) - trained
    assert extra == {f"{part}.{name}" for part in ("start", "average") for name in trained}
