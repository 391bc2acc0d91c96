"""What DINOv3 adds to DINOv2: Gram anchoring, a norm for small crops, keys without a bias."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax import streams
from ssl_jax.augment.render import render_batch, render_views
from ssl_jax.augment.view import View
from ssl_jax.batch import index as batch_index
from ssl_jax.data import loader
from ssl_jax.methods.combine.multitask import Multitask
from ssl_jax.methods.continual.sequence import Sequence
from ssl_jax.methods.joint.dino import paired_cross_entropy
from ssl_jax.methods.joint.dinov3 import gram_loss, resized_map, weighted_pairs, without_key_bias
from ssl_jax.methods.pretext.rotation import Rotation
from ssl_jax.models.vit import ViT
from ssl_jax.recipes import get_config
from ssl_jax.runtime.errors import UserError
from ssl_jax.step import mapped_step

pytestmark = pytest.mark.usefixtures("quick_compilation")
fast = pytest.mark.fast


@fast
def test_gram_loss_is_the_reference(modern):
    ref = modern("gram")
    with jax.enable_x64():
        student, teacher = jnp.asarray(ref["student"]), jnp.asarray(ref["teacher"])
        found, gradient = jax.value_and_grad(gram_loss)(student, teacher)
        np.testing.assert_allclose(found, ref["img_level"], rtol=1e-9)
        np.testing.assert_allclose(gradient, ref["grad_img_level"], rtol=1e-9, atol=1e-12)
        batch = gram_loss(student.reshape(1, -1, 3), teacher.reshape(1, -1, 3))  # all images as one: not the recipe's
        np.testing.assert_allclose(batch, ref["batch_level"], rtol=1e-9)
        assert abs(batch - found) > 1e-3
        assert not np.any(jax.grad(gram_loss, 1)(student, teacher))


@fast
def test_pairs_are_weighed_as_the_authors_do(modern):
    """Their unscaled terms times 2 l / n and 2 / n, for l small crops, are DINOv2's."""
    ref = modern("dinov2")
    with jax.enable_x64():
        views = jnp.concatenate([ref[k].reshape(2, 3, -1) for k in ("student_global", "student_local")])
        p = jnp.asarray(ref["sinkhorn_cls"]).reshape(2, 3, -1)
        whole = weighted_pairs(p, views, 0.1, 1.0)
        np.testing.assert_allclose(whole, paired_cross_entropy(p, views, 0.1), rtol=1e-12)
        np.testing.assert_allclose(whole, (4 * ref["dinov3_local"] + 2 * ref["dinov3_global"]) / 6, rtol=1e-9)
        half = weighted_pairs(p, views, 0.1, 0.5)
        np.testing.assert_allclose(half, (2 * ref["dinov3_local"] + 2 * ref["dinov3_global"]) / 6, rtol=1e-9)


@fast
def test_a_map_on_another_grid():
    """Half-pixel centres and torch's cubic: a plane stays one inside, and equal grids are left alone."""
    rows, columns = np.indices((8, 8))
    plane = jnp.asarray((2.0 * rows - columns).reshape(1, 64, 1), jnp.float32)
    found = resized_map(plane, (8, 8), (4, 4)).reshape(4, 4)
    centres = 2 * np.arange(4) + 0.5
    np.testing.assert_allclose(found[1:3, 1:3], (2 * centres[:, None] - centres)[1:3, 1:3], atol=1e-4)
    assert resized_map(plane, (8, 8), (8, 8)) is plane


@fast
def test_gram_crops_are_the_large_ones_undistorted():
    """Box and mirroring are those of the large crop."""
    run = tiny.run("dinov3")
    views = run.method.views()
    assert list(views)[-2:] == ["gram1", "gram2"] and views["gram1"].size == 64
    plain = {name: 0.0 for name in ("jitter", "gray", "blur", "solarize")}
    alike = {
        name: dataclasses.replace(views[name], **plain) if name.startswith("global") else views[name] for name in views
    }
    alike = {n: dataclasses.replace(v, size=32) if n.startswith("gram") else v for n, v in alike.items()}
    images = jnp.asarray(run.train.images[:8])
    made = jax.jit(lambda x: render_views(alike, jax.random.key(3), jnp.arange(8), x))(images)
    for i in (1, 2):
        np.testing.assert_allclose(made[f"gram{i}"], made[f"global{i}"], atol=1e-5)
    assert np.abs(made["gram1"] - made["global2"]).max() > 0.1


@fast
def test_the_gram_teacher_is_an_earlier_teacher():
    """It is copied at `gram_start` and then every so often, no more than so many times."""
    run = tiny.run("dinov3")
    method = dataclasses.replace(run.method, gram_start=2.0, gram_every=3.0, gram_copies=2, tau=0.5)
    info = dataclasses.replace(run.info, steps_per_epoch=1)
    ts = tiny.first_state(run)
    params, state = ts.params, ts.state
    update = jax.jit(lambda params, state, step: method.after_update(params, state, step, info))
    copied = []
    for step in range(14):
        params = jax.tree.map(lambda x: x + 0.01, params)
        before = state["gram"]["norm"]["bias"]
        params, state = update(params, state, jnp.int32(step))
        moved = bool(np.any(state["gram"]["norm"]["bias"] != before))
        if moved:
            copied.append(step + 1)
            np.testing.assert_array_equal(
                state["gram"]["norm"]["bias"], state["teacher"]["params"]["backbone"]["norm"]["bias"]
            )
    assert copied == [2, 5, 8]


@fast
def test_the_share_of_the_gram_loss():
    run = tiny.run("dinov3")
    method = dataclasses.replace(run.method, gram_start=1.0, gram_ramp=1.0)
    at = functools.partial(method._shown, info=run.info)
    per = run.info.steps_per_epoch
    assert at(jnp.int32(per - 1)) == 0 and at(jnp.int32(per)) == 0
    np.testing.assert_allclose(at(jnp.int32(per + per // 2)), (1 - np.cos(np.pi * (per // 2) / per)) / 2, rtol=1e-5)
    np.testing.assert_allclose(at(jnp.int32(2 * per)), 1.0, rtol=1e-6)


def test_what_gets_a_gradient():
    """Keys' biases none; the norm of small crops by them alone; the Gram loss moves patches once it counts."""
    run = tiny.run("dinov3")
    batch, ts = tiny.batch_of(run, 16), tiny.first_state(run)
    loss = tiny.loss_function(run)
    method = run.method

    def gradients(step):
        return jax.jit(jax.value_and_grad(loss, has_aux=True))(ts.params, ts.state, batch, step)

    (_, (_, early)), grads = gradients(0)
    for name, block in grads["backbone"].items():
        if name.startswith("block"):
            query, key, value = np.split(np.asarray(block["qkv"]["bias"]), 3)
            assert not key.any() and query.any() and value.any()
    assert np.any(grads["small_norm"]["scale"]) and np.any(grads["backbone"]["norm"]["scale"])
    assert early["gram_loss"] == 0
    (_, (_, late)), later = gradients(int(method.gram_start * run.info.steps_per_epoch) + 2)
    assert late["gram_loss"] > 0
    assert np.abs(later["backbone"]["patch"]["kernel"] - grads["backbone"]["patch"]["kernel"]).max() > 1e-6
    alone = without_key_bias({"block1": {"qkv": {"bias": jnp.ones(6)}}, "norm": 1})
    np.testing.assert_array_equal(alone["block1"]["qkv"]["bias"], [1, 1, 0, 0, 1, 1])


SIZES = ((32, 16, 64, 0.5), (16, 8, 32, 0.5))


def drawn(run, step):
    """Number of the sizes that an update has."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(run.config.seed), step), streams.VARIANT)
    return int(jax.random.uniform(key) >= 0.5)


def updates(run, count):
    step, given, ts = mapped_step(run), loader.on_devices(run.train, run.mesh), tiny.first_state(run)
    for number in range(count):
        ts, metrics = step(ts, given, batch_index(run, number))
    return jax.device_get(ts), jax.device_get(metrics)


@fast
def test_methods_of_several_parts_draw_the_sizes_too():
    own = tiny.run("dinov3", **{"method.sizes": SIZES}).method
    assert [share for _, share in own.variants()] == [0.5, 0.5]
    wrapped = Sequence(own.backbone, learner=own).variants()
    assert [(method.learner, share) for method, share in wrapped] == own.variants()
    tasks = {"dinov3": own, "rotation": Rotation(own.backbone)}
    fields = {"weights": dict.fromkeys(tasks, 1.0), "lead": "rotation"}
    together = Multitask(own.backbone, tasks=tasks, **fields).variants()
    assert [(method.tasks["dinov3"], share) for method, share in together] == own.variants()
    plain = Multitask(own.backbone, tasks={"rotation": tasks["rotation"]}, **fields)
    assert plain.variants() == [(plain, 1.0)]


def test_each_update_draws_the_sizes_of_its_crops():
    """It is the update of a run with these sizes alone, and the same on 8 devices."""
    mixed = tiny.run("dinov3", **{"method.sizes": SIZES})
    assert {name: view.size for name, view in mixed.method.views().items()} == {
        "global1": 32, "global2": 32, "local1": 16, "local2": 16, "gram1": 64, "gram2": 64,
    }  # fmt: skip
    wanted = [drawn(mixed, step) for step in range(40)]
    assert 8 < sum(wanted) < 32
    found, metrics = updates(mixed, 1)
    alone = {}
    for number, (large, small, gram, _) in enumerate(SIZES):
        own = {"method.global1.size": large, "method.global2.size": large, "method.local.size": small}
        _, alone[number] = updates(tiny.run("dinov3", **own, **{"method.gram_size": gram}), 1)
    for name in ("loss", "grad_norm", "patch_loss"):
        np.testing.assert_allclose(metrics[name], alone[wanted[0]][name], rtol=1e-5)
        assert abs(metrics[name] - alone[1 - wanted[0]][name]) > 1e-4
    many, others = updates(tiny.run("dinov3", 8, **{"method.sizes": SIZES}), 1)
    tiny.assert_close(others, metrics, 1e-5)
    tiny.assert_close(many.opt_state, found.opt_state, 2e-5)


@fast
def test_crops_of_a_stream_are_shrunk_to_the_drawn_size():
    """Mirrored as they would be; a crop of the view's own size is left as it is."""
    view = View(size=16, flip=0.5, order=("crop", "flip"), mean=(0.0,), std=(1.0,))
    rows, columns = np.indices((32, 32))
    crop = jnp.asarray(np.stack([4 * rows + 2 * columns] * 3, -1), jnp.uint8)
    keys = jax.random.split(jax.random.key(1), 8)
    found = np.asarray(render_batch(view, keys, jnp.tile(crop, (8, 1, 1, 1)), cropped=True))
    means = np.asarray(crop, np.float32).reshape(16, 2, 16, 2, 3).mean((1, 3)) / 255
    turned = [bool(np.abs(image - means).max() > 0.05) for image in found]
    assert 0 < sum(turned) < 8
    for image, mirrored in zip(found, turned, strict=True):
        np.testing.assert_allclose((image[:, ::-1] if mirrored else image)[1:-1, 1:-1], means[1:-1, 1:-1], atol=2e-3)
    same = render_batch(dataclasses.replace(view, size=32), keys, jnp.tile(crop, (8, 1, 1, 1)), cropped=True)
    for image, mirrored in zip(same, turned, strict=True):
        np.testing.assert_array_equal(image[:, ::-1] if mirrored else image, crop / jnp.float32(255))


def test_the_student_alone_sees_changed_places():
    run = tiny.run("dinov3", **{"method.gram_weight": 0.0})
    ts, batch, key = tiny.first_state(run), tiny.batch_of(run, 4), jax.random.key(5)
    plain, changed = run.method, dataclasses.replace(run.method, rope_rescale=2.0)
    params, rng = ts.params, jax.random.key(1)
    assert "turns" not in plain._gates(["global1"], batch, rng, params, True)
    assert "turns" not in changed._gates(["global1"], batch, rng, params, False)
    large, small = (changed._gates(names, batch, rng, params, True)["turns"] for names in (["global1"], ["local1"]))
    assert large.shape[2] == 1 + 16 and small.shape[2] == 1 + 4
    seen = [jax.jit(lambda method: method._student(params, batch, None, key, True), static_argnums=0)(m)
            for m in (plain, changed)]  # fmt: skip
    assert all(np.abs(a - b).max() > 1e-4 for a, b in zip(*seen, strict=True))

    def teacher(method):
        kept = []
        spy = type("Spy", (type(method),), {"_compare": lambda self, p, s, tokens, m, **o: (kept.append(tokens[1]),
                                            (0.0, {}, {}))[1]})  # fmt: skip
        own = spy(**{f.name: getattr(method, f.name) for f in dataclasses.fields(method)})
        own.loss(params, ts.state, batch, rng=key, step=jnp.int32(0), info=run.info)
        return kept[0]

    for a, b in zip(teacher(plain), teacher(changed), strict=True):
        np.testing.assert_array_equal(a, b)


@fast
def test_settings_without_meaning_are_refused():
    config = get_config("dinov3", "fashion_mnist")
    for changes, message in (
        ({"model.name": "vit_micro", "method.rope_shift": 0.1}, "set config.model.name to vit_micro_rope"),
        ({"method.sizes": ((28, 16, 28, 0.5), (28, 12, 28, 0.4))}, "make their sum 1"),
        ({"method.sizes": ((28, 16, 28, 0.5), (28, 14, 28, 0.5))}, "config.method.local.size is 14"),
    ):
        with pytest.raises(UserError, match=message):
            tiny.check_changed(config, changes, 28)
    with pytest.raises(UserError, match=r"rope_rescale is 0\.5: it must be at least 1"):
        tiny.run("dinov3", **{"method.rope_rescale": 0.5})


@fast
def test_numbers_of_parameters():
    """Of the specification: ViT-S/16 with four registers, LayerScale and a mask token, and its head."""
    from ssl_jax.models.heads import DINOHead
    from ssl_jax.models.vit_rotary import RotaryViT

    def count(module, shape):
        made = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros(shape), train=False)["params"])
        return sum(x.size for x in jax.tree.leaves(made))

    network = RotaryViT("vit_small", registers=4, layer_scale=1e-5)
    assert count(network, (1, 224, 224, 3)) + 384 == 21_601_152
    assert count(DINOHead(linear_prototypes=True), (1, 384)) == 22_286_592
    assert isinstance(network, ViT)
