"""AdaptSegNet: its losses against reference values, and what moves what."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax.data.dataset import Card
from ssl_jax.evals import context, own_masks
from ssl_jax.methods.adapt.adaptsegnet import SOURCE, TARGET, AdaptSegNet, judged_loss, pseudo_loss
from ssl_jax.metrics.segmentation import cross_entropy
from ssl_jax.runtime.errors import UserError

NAME = "adaptsegnet"


@pytest.mark.fast
def test_losses_of_the_discriminator_are_the_reference_ones(golden):
    path = golden.parent / "golden_wave2" / "segmentation.npz"
    if not path.exists():
        pytest.skip("reference numbers golden_wave2 are not on this machine")
    with np.load(path) as want:
        logits = jnp.asarray(want["d_logits"])
        np.testing.assert_allclose(judged_loss(logits, SOURCE), want["bce_as_source_0"], rtol=1e-6)
        np.testing.assert_allclose(judged_loss(logits, TARGET), want["bce_as_target_1"], rtol=1e-6)
        np.testing.assert_allclose(judged_loss(logits, TARGET) / 2, want["frame_of_half_d_loss"], rtol=1e-6)


@pytest.mark.fast
def test_only_sure_answers_are_learnt():
    logits = jnp.array([[[[5.0, 0, 0], [0.2, 0, 0], [0, 0, 6]]]])
    np.testing.assert_allclose(
        pseudo_loss(logits, 0.9), cross_entropy(logits[:, :, ::2], jnp.array([[[0, 2]]])), rtol=1e-6
    )
    assert pseudo_loss(logits, 0.9999) == 0
    assert not np.asarray(jax.grad(lambda x: pseudo_loss(x, 0.9))(logits))[0, 0, 1].any()


def gradients(method, run, batch):
    ts = tiny.fresh(run)
    loss = tiny.loss_function(run, method)
    return jax.device_get(jax.jit(jax.grad(lambda p: loss(p, ts.state, batch)[0]))(ts.params))


def test_who_moves_whom():
    """Without weight the target leaves the network alone; discriminators learn the same in any case."""
    run = tiny.run(NAME)
    batch = tiny.batch_of(run, 8)
    off, on = (dataclasses.replace(run.method, adversarial=w, aux_adversarial=w) for w in (0.0, 1.0))
    other = {**batch, "target": {**batch["target"], "seen": 1 - batch["target"]["seen"]}}
    plain, full, masked = (gradients(m, run, b) for m, b in ((off, batch), (on, batch), (on, other)))
    tiny.assert_same(masked, full)  # masks of the target are not read
    for name, grads in full.items():
        pairs = zip(*map(jax.tree.leaves, (grads, plain[name])), strict=True)
        changed = any(np.abs(a - b).max() > 1e-4 * np.abs(b).max() for a, b in pairs)
        assert changed != name.startswith("judge"), name
        assert any(np.any(x) for x in jax.tree.leaves(plain[name])), name
    moved = {**batch, "target": {**batch["target"], "view": batch["target"]["view"][::-1] * 0.5}}
    alone = gradients(off, run, moved)
    tiny.assert_close(alone["backbone"], plain["backbone"], 1e-5)
    tiny.assert_close(alone["classifier_main"], plain["classifier_main"], 1e-5)


@pytest.mark.fast
def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"judge has 4 layers, too many for views of 16 pixels"):
        view = dataclasses.replace(AdaptSegNet.view, size=16)
        AdaptSegNet(None, view=view).check(64, 64, 3)
    with pytest.raises(UserError, match=r"classes is 1: masks have at least two"):
        AdaptSegNet(None, classes=1).check(240, 240, 3)


def test_its_masks_are_measured_in_each_domain():
    run = tiny.run(NAME)
    networks = {"pretrained": context.Network(run, tiny.fresh(run))}
    card = dataclasses.replace(run.test.card, mask_classes=("floor", "wall", "box", "sphere"))
    images = tuple(dataclasses.replace(d, card=card) for d in (run.train, run.test))
    found = {r.name: r for r in own_masks.measure(context.Context(networks, images, None))}
    for domain in ("source", "target"):
        assert 0 <= found[f"own_masks/{domain}/miou"].value < 0.9 and found[f"own_masks/{domain}/miou"].chance > 0
    whole = tuple(dataclasses.replace(d, card=Card(mask_classes=card.mask_classes)) for d in images)
    assert "own_masks/miou" in {r.name for r in own_masks.measure(context.Context(networks, whole, None))}
