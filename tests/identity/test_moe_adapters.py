"""MoE-Adapters' savings against the plain form: same logits, losses, gradients, decisions, counts."""

import pytest
import torch
import torch.nn.functional as F
from methods.test_moe_adapters import attached, eval_images, moe_stream
from parity.official_order import OfficialOrder, run_in_turn
from small_methods import begin, learn
from tiny import tiny_clip

from vlcl_toolkit.clip.model import Clip, normalize
from vlcl_toolkit.methods.caches import FeatureCache
from vlcl_toolkit.methods.moe_adapters.experts import Mixture, Mode, Place, Sampler, grouped_linear
from vlcl_toolkit.methods.moe_adapters.moe_adapters import MoEAdapters
from vlcl_toolkit.methods.moe_adapters.selector_features import ClipFeatures
from vlcl_toolkit.training.loader import load_step

CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture
def stream():
    return moe_stream()


def a_mixture(*, experts=6, top_k=2, dropout=0.0, width=12, bottleneck=5, tower="image"):
    """A mixture with two routers and no parameter at 0."""
    mode = Mode(router=1, training=True, noise=True)
    settings = {"experts": experts, "top_k": top_k, "bottleneck": bottleneck}
    place = Place(tower, 0)
    mixture = Mixture(place, width, mode, **settings, dropout=dropout, scale=0.1)
    mixture.add_router()
    mixture.add_router()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter.normal_(generator=generator)
    return mixture


class Fixed(Sampler):
    """The same draws in every forward."""

    def noise(self, place, like):
        return torch.randn(like.shape, generator=torch.Generator().manual_seed(7))

    def keep(self, place, like, p):
        return torch.rand(like.shape, generator=torch.Generator().manual_seed(8)) >= p


class Same(Fixed):
    """The same draws however long the texts are."""

    def keep(self, place, like, p):
        whole = like.new_empty(*like.shape[:2], 77, like.shape[3])
        return super().keep(place, whole, p)[:, :, : like.shape[2]]


def in_turn(mixture, h):
    """The official order."""
    run_in_turn(mixture)
    return mixture(h)


def one_by_one(mixture, h):
    """Every row through each of its experts, as in the paper."""
    mode, k = mixture.mode, mixture.top_k
    z = h[:, 0]
    logits = z @ mixture.router_list[mode.router]
    if mode.noise:
        sigma = F.softplus(z @ mixture.w_noise_list[mode.router]) + 0.01
        logits = logits + mode.sampler.noise(mixture.place, logits) * sigma
    counts = torch.zeros(len(mixture.adaptmlp_list), dtype=torch.int64)
    keep = None
    if mode.training and mixture.dropout:
        hidden = mixture.adaptmlp_list[0].down_proj.out_features
        like = torch.empty(len(h), k, h.shape[1], hidden)
        keep = mode.sampler.keep(mixture.place, like, mixture.dropout)
    rows = []
    for b, row in enumerate(h):
        best = logits[b].topk(k)
        gates = dict(zip(best.indices.tolist(), best.values.softmax(0), strict=True))
        y = torch.zeros_like(row)
        for slot, index in enumerate(sorted(gates)):
            expert = mixture.adaptmlp_list[index]
            hidden = expert.down_proj(row).relu()
            if keep is not None:
                hidden = hidden * keep[b, slot] / (1 - mixture.dropout)
            y = y + gates[index] * mixture.scale * expert.up_proj(hidden)
            counts[index] += 1
        rows.append(y)
    return torch.stack(rows), counts


def gradients(mixture):
    return {name: p.grad for name, p in mixture.named_parameters()}


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize(("experts", "top_k"), [(22, 2), (6, 1), (6, 3), (2, 2)])
@pytest.mark.parametrize("form", [Mixture.forward, in_turn])
def test_grouped_experts_are_the_experts_one_by_one(experts, top_k, dropout, form):
    h = torch.randn(5, 7, 12, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(5, 7, 12, generator=torch.Generator().manual_seed(2))
    results = []
    for compute in (form, one_by_one):
        mixture = a_mixture(experts=experts, top_k=top_k, dropout=dropout)
        mixture.mode.sampler = Fixed()
        x = h.clone().requires_grad_()
        out = compute(mixture, x)
        out, counts = out if isinstance(out, tuple) else (out, mixture.count)
        (out * weights).sum().backward()
        results.append((out, counts, gradients(mixture) | {"input": x.grad}))
    (fast, fast_counts, fast_grads), (slow, slow_counts, slow_grads) = results
    torch.testing.assert_close(fast, slow, **CLOSE)
    assert torch.equal(fast_counts, slow_counts)
    for name, gradient in slow_grads.items():
        if gradient is None:
            assert fast_grads[name] is None, name  # nobody chose it: no gradient at all
        else:
            torch.testing.assert_close(fast_grads[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
    unused = [n for n, g in slow_grads.items() if g is None and "adaptmlp_list" in n]
    assert len(unused) == 4 * int((slow_counts == 0).sum())
    assert unused or experts < 22


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_training_step_in_the_official_order_is_the_same(stream, dropout):
    results = []
    for cls in (MoEAdapters, OfficialOrder):
        clip = tiny_clip()
        method = attached(clip, stream, cls, dropout=dropout)
        begin(method, 0, stream[0])
        for mixture in method.towers.mixtures.values():
            generator = torch.Generator().manual_seed(3)
            for parameter in mixture.parameters():
                torch.nn.init.normal_(parameter, generator=generator)
        method.towers.mode.sampler = Same()
        batch = load_step(method, stream[0], 0, 0)
        loss = method.loss(batch)["loss"]
        loss.backward()
        counts = torch.stack([m.count for m in method.towers.mixtures.values()])
        logits = method.predict(eval_images(stream[0], clip), stream[0])
        gradients = {n: p.grad for n, p in method.trainable().items()}
        results.append((loss, counts, logits, gradients))
        method.detach()
        assert all(block.attn.batch_first for block in clip.model.transformer.resblocks)
    (loss, counts, logits, grads), (*plain, plain_grads) = results
    torch.testing.assert_close(loss, plain[0], **CLOSE)
    assert torch.equal(counts, plain[1])
    torch.testing.assert_close(logits, plain[2], rtol=1e-4, atol=1e-4)
    for name, gradient in plain_grads.items():
        if gradient is None:
            assert grads[name] is None, name
        else:
            torch.testing.assert_close(grads[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("official", [False, True])
def test_an_expert_whose_weight_vanishes_is_not_chosen(official):
    mixture = a_mixture(experts=3)
    if official:
        run_in_turn(mixture)
    mixture.mode.noise = False
    with torch.no_grad():
        mixture.router_list[1].zero_()
        mixture.router_list[1][0] = torch.tensor([500.0, 0.0, -500.0])
    h = torch.ones(4, 2, 12)
    mixture(h).sum().backward()
    assert mixture.count.tolist() == [4, 0, 0]
    assert mixture.adaptmlp_list[1].down_proj.weight.grad is None
    assert mixture.adaptmlp_list[0].down_proj.weight.grad is not None


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 16), (5, 3), (12, 1)])
def test_a_grouped_product_is_a_product_per_group(inputs, outputs):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, inputs, generator=generator)
    weight = torch.randn(3, outputs, inputs, generator=generator)
    found = grouped_linear(x, weight, torch.tensor([2, 3, 9], dtype=torch.int32))
    parts = zip(x.split([2, 1, 6]), weight, strict=True)
    torch.testing.assert_close(found, torch.cat([a @ b.T for a, b in parts]), **CLOSE)


def test_prompts_share_one_choice_where_nothing_can_differ(clip, stream):
    method = attached(clip, stream)
    learn(method, 0, stream[0])
    tokens = clip.tokenize(["a photo of a cat.", "art of the dog and of much else.", "a bird"])
    seen = []
    method.towers.mode.observer = lambda place, routing: seen.append(routing)
    with torch.no_grad(), method.towers.routed(0):
        fused = clip.encode_text(tokens)
        assert {len(routing.clean) for routing in seen} == {1}
        shared = [routing.gates() for routing in seen]
        seen.clear()
        method.towers.mode.one_choice = False
        per_row = clip.encode_text(tokens)
    assert {len(routing.clean) for routing in seen} == {3}
    torch.testing.assert_close(fused, per_row, **CLOSE)
    for one, every in zip(shared, seen, strict=True):
        torch.testing.assert_close(one.expand(3, -1), every.gates(), **CLOSE)
        assert torch.equal((one != 0).expand(3, -1), every.gates() != 0)


def whole_text(model, tokens):
    """The text tower over all positions."""
    x = model.token_embedding(tokens) + model.positional_embedding
    x = model.transformer(x, attn_mask=model.attn_mask)
    x = model.ln_final(x)[torch.arange(len(x)), tokens.argmax(dim=-1)]
    return x @ model.text_projection


@pytest.mark.parametrize("route", ["start", "end"])
def test_text_up_to_the_last_end_of_text_is_the_whole_text(clip, stream, route, monkeypatch):
    method = attached(clip, stream, dropout=0.0, text_route=route)
    begin(method, 0, stream[0])
    for mixture in method.towers.mixtures.values():
        for expert in mixture.adaptmlp_list:
            torch.nn.init.normal_(expert.up_proj.weight, generator=torch.Generator().manual_seed(3))
    method.towers.mode.sampler = Fixed()
    batch = load_step(method, stream[0], 0, 0)
    results = []
    for plain in (False, True):
        if plain:
            tokens = lambda self, tokens: normalize(whole_text(self.model, tokens))  # noqa: E731
            monkeypatch.setattr(Clip, "encode_text", tokens)
        method.towers.reset_counts()
        parameters = method.trainable()
        for parameter in parameters.values():
            parameter.grad = None
        loss = method.loss(batch)["loss"]
        loss.backward()
        counts = torch.stack([m.count for m in method.towers.mixtures.values()])
        results.append((loss, counts, {n: p.grad for n, p in parameters.items()}))
    (short, short_counts, short_grads), (long, long_counts, long_grads) = results
    torch.testing.assert_close(short, long, **CLOSE)
    assert torch.equal(short_counts, long_counts)
    for name, gradient in long_grads.items():
        torch.testing.assert_close(short_grads[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def counted(monkeypatch, owner, name):
    """How many images or texts went through `owner.name`, as a list of batch sizes."""
    sizes, original = [], getattr(owner, name)

    def wrapper(self, x, *more):
        sizes.append(len(x))
        return original(self, x, *more)

    monkeypatch.setattr(owner, name, wrapper)
    return sizes


def test_frozen_features_and_old_errors_are_computed_once(clip, stream, monkeypatch):
    method = attached(clip, stream)
    begin(method, 0, stream[0])
    sizes = counted(monkeypatch, ClipFeatures, "extract")
    # `FeatureCache` holds the bound function of before
    method.selector.frozen.encode = method.selector.features.extract
    test = stream[0].test
    first = method.selector.errors_of(test)
    assert sum(sizes) == len(test)
    begin(method, 1, stream[1])
    sizes.clear()
    second = method.selector.errors_of(test)
    assert not sizes
    assert torch.equal(second[:, :2], first)
    features = method.selector.features
    whole = method.selector.errors(features.finish(features.extract(eval_images(stream[0], clip))))
    assert torch.equal(second, whole)


def test_features_that_do_not_fit_are_computed_again(clip, stream):
    data = stream[0].test
    for limit, kept in ((1, True), (0, False)):
        frozen = FeatureCache(clip, clip.encode_image, limit)
        found = frozen.features(data)
        assert torch.equal(found, clip.encode_image(eval_images(stream[0], clip)))
        assert (data.content in frozen._entries) is kept


def test_features_of_the_backbone_serve_all_runs(clip, stream, monkeypatch):
    data = stream[0].test
    first = FeatureCache.of_backbone(clip).features(data)
    sizes = counted(monkeypatch, Clip, "encode_image")
    assert torch.equal(FeatureCache.of_backbone(clip).features(data), first)
    assert not sizes
    # another batch size is another computation, and so is another backbone
    FeatureCache.of_backbone(clip, batch_size=2).features(data)
    assert set(sizes) == {2}
    sizes.clear()
    FeatureCache.of_backbone(tiny_clip(seed=1)).features(data)
    assert sum(sizes) == len(data)


def test_a_large_set_that_is_asked_for_once_is_not_kept(clip, stream):
    data = stream[0].test
    for again, limit, kept in ((False, 1, False), (False, 100, True), (True, 1, True)):
        frozen = FeatureCache(clip, lambda images: images.flatten(1), limit)
        size = frozen.features(data, again=again).nbytes
        assert 0.01 * 2**20 < size < 2**20
        assert (data.content in frozen._entries) is kept


def test_heads_are_built_when_needed_and_the_plain_one_once(clip, stream, monkeypatch):
    method = attached(clip, stream, threshold=1e-9)
    learn(method, 0, stream[0])
    sizes = counted(monkeypatch, Clip, "encode_text")
    method.classify(stream[0].test, stream[0])
    assert sizes == [6]  # the plain head alone: no image was given a task
    learn(method, 1, stream[1])
    sizes.clear()
    method.classify(stream[0].test, stream[0])
    assert not sizes
    for _ in range(2):
        method.text_head(stream[0], 1)
    assert sizes == [6]


def test_plain_text_features_once_per_task_without_experts_in_the_text_tower(monkeypatch):
    clip, stream = tiny_clip(), moe_stream()
    method = attached(clip, stream, towers="image", dropout=0.0)
    begin(method, 0, stream[0])
    method.towers.mode.sampler = Fixed()
    batch = load_step(method, stream[0], 0, 0)
    sizes = counted(monkeypatch, Clip, "encode_text")
    losses = [method.loss(batch)["loss"] for step in range(3)]
    assert sizes == [3]
    method._fixed_text = None
    assert torch.equal(method.loss(batch)["loss"], losses[0])


def test_images_of_one_route_share_batches(clip, stream):
    method = attached(clip, stream)
    for index, task in enumerate(stream):
        learn(method, index, task)
    images = torch.cat([eval_images(task, clip) for task in stream])
    together = method.predict(images, stream[0])
    alone = torch.cat([method.predict(image[None], stream[0]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert torch.equal(together.argmax(1), alone.argmax(1))
