"""Optimisers, schedules and parameter groups, built from optax.

Every group of parameters that a method names has its own entry in `config.optim`; the fields are in
`ssl_jax/recipes/base.py`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ssl_jax.optim_parts import clip_each, with_parts
from ssl_jax.runtime.errors import UserError, nearest

Schedule = Callable[[jax.Array], jax.Array]


def decayed(params: Any, exclude: str) -> Any:
    """Which parameters take weight decay (and LARS's trust ratio).

    Args:
      params: a tree of parameters.
      exclude: '1d' leaves out biases and everything in a norm, the rule of SimCLR, BYOL, MoCo v3, Barlow Twins and
        VICReg; 'norm' leaves out norms alone, which are known by their `scale` (VISSL's `regularize_bn: False`);
        'none' leaves out nothing (MoCo, SimSiam, SwAV).

    Returns:
      a tree of bool.
    """
    if exclude not in ("1d", "norm", "none"):
        raise UserError(f"config.optim.*.exclude is '{exclude}': use '1d', 'norm' or 'none'.")
    if exclude == "norm":
        return _outside_norms(params)
    return jax.tree.map(lambda p: exclude == "none" or p.ndim > 1, params)


def _outside_norms(params: Any) -> Any:
    if not isinstance(params, Mapping) or "scale" in params:
        return jax.tree.map(lambda _: not isinstance(params, Mapping), params)
    return {name: _outside_norms(part) for name, part in params.items()}


def learning_rate(config: Any, batch_size: int, steps_per_epoch: int, total_steps: int) -> Schedule:
    """The learning rate as a function of the number of updates done.

    Args:
      config: one group of `config.optim`.
      batch_size: N, images an update.
      steps_per_epoch: updates an epoch.
      total_steps: updates of the run.

    Returns:
      a schedule: linear warm-up from 0, then cosine, inverse (Ganin et al. 2016, (1 + 10 p)^-.75 at the share p of the
      run), steps or constant, which with `per_epoch` move once an epoch.
      Of n updates of warm-up update s has s / n of the peak, as SimCLR's, BYOL's and MoCo v3's code; DINO's and SwAV's
      has s / (n - 1), W-MSE's (s + 1) / n.
    """
    scales = {"linear": batch_size / 256, "sqrt": batch_size**0.5, "none": 1.0}
    if config.scaling not in scales:
        raise UserError(f"config.optim.*.scaling is '{config.scaling}'. {nearest(config.scaling, scales)}")
    peak = config.learning_rate * scales[config.scaling]
    warmup, rest = config.warmup_epochs * steps_per_epoch, round(config.hold_epochs * steps_per_epoch)

    def schedule(step: jax.Array) -> jax.Array:
        held = step // steps_per_epoch * steps_per_epoch if config.per_epoch else step
        value = peak * _decay(config, held, warmup, steps_per_epoch, total_steps)
        value = jnp.where(step < warmup, peak * step / max(warmup, 1), value) if warmup else value
        return jnp.where(step < rest, 0.0, value) if rest else value

    return schedule


def _decay(config: Any, step: jax.Array, warmup: float, steps_per_epoch: int, total_steps: int) -> jax.Array:
    if config.schedule == "constant":
        return jnp.ones(())
    if config.schedule == "steps":
        passed = [step >= e * steps_per_epoch for e in config.milestones]
        return config.factor ** jnp.sum(jnp.array(passed))
    if config.schedule not in ("cosine", "cosine_4_5", "cosine_7_16", "inverse"):
        known = ("cosine", "cosine_4_5", "cosine_7_16", "inverse", "constant", "steps")
        raise UserError(f"config.optim.*.schedule is '{config.schedule}'. {nearest(config.schedule, known)}")
    progress = jnp.clip((step - warmup) / max(total_steps - warmup, 1), 0.0, 1.0)
    if config.schedule == "cosine_4_5":
        return 0.5 * (1 + jnp.cos(jnp.pi * 4 / 5 * progress))
    if config.schedule == "cosine_7_16":
        return jnp.cos(jnp.pi * 7 / 16 * progress)
    if config.schedule == "inverse":
        return (1 + 10 * progress) ** -0.75
    return config.final + (1 - config.final) * 0.5 * (1 + jnp.cos(jnp.pi * progress))


def decay_rate(config: Any, total_steps: int) -> float | Schedule:
    """The weight decay of one group: a number, or with `weight_decay_final` a cosine to it over the run (DINO)."""
    start, final = config.weight_decay, config.weight_decay_final
    if final is None:
        return start
    return lambda step: final + (start - final) * 0.5 * (1 + jnp.cos(jnp.pi * step / total_steps))


def lars(
    schedule: Schedule, *, momentum: float, weight_decay: float | Schedule, trust: float, order: str, mask: Callable
) -> Any:
    """LARS in either order of momentum and learning rate (they differ while the rate changes).

    Args:
      schedule: learning rate by update.
      momentum: m.
      weight_decay: lambda, constant or by update, added to the gradient where `mask` says so.
      trust: eta; the local ratio is eta |w| / |g + lambda w|, or 1 where either is zero or the mask is False.
      order: 'inside': v <- m v + lr r g', w <- w - v (SimCLR's TensorFlow code); 'outside': v <- m v + r g',
        w <- w - lr v (BYOL, MoCo v3, Barlow Twins, VICReg).
      mask: params -> tree of bool.

    Returns:
      an optax transformation.
    """
    rate = optax.scale_by_learning_rate(schedule)
    trace = optax.trace(momentum)
    if order not in ("inside", "outside"):
        raise UserError(f"config.optim.*.lars_order is '{order}': use 'inside' or 'outside'.")
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        optax.masked(optax.scale_by_trust_ratio(trust_coefficient=trust), mask),
        *((rate, trace) if order == "inside" else (trace, rate)),
    )


class _Updates(NamedTuple):
    updates: jax.Array


def larc(
    schedule: Schedule, *, momentum: float, weight_decay: float | Schedule, trust: float, clip: bool, mask: Callable
) -> optax.GradientTransformation:
    """LARC, the variant of LARS in apex, VISSL and solo-learn: a local ratio, then ordinary SGD.

    The ratio is eta |w| / (|g| + lambda |w| + 1e-8), unlike LARS's |g + lambda w|; g <- (g + lambda w) ratio.

    Args:
      schedule: learning rate by update.
      momentum: m.
      weight_decay: lambda, constant or by update.
      trust: eta.
      clip: use min(ratio / lr, 1) instead, so that no layer moves further than under plain SGD.
      mask: params -> tree of bool; where False neither decay nor ratio applies.

    Returns:
      an optax transformation.
    """

    def update(grads, state, params):
        rate = schedule(state.updates)
        decay = weight_decay(state.updates) if callable(weight_decay) else weight_decay

        def adapt(g, w, included):
            if not included:
                return g
            g_norm, w_norm = jnp.linalg.norm(g.ravel()), jnp.linalg.norm(w.ravel())
            ratio = trust * w_norm / (g_norm + decay * w_norm + 1e-8)
            ratio = jnp.minimum(ratio / jnp.maximum(rate, 1e-30), 1.0) if clip else ratio
            return jnp.where((g_norm > 0) & (w_norm > 0), (g + decay * w) * ratio, g)

        return jax.tree.map(adapt, grads, params, mask(params)), _Updates(state.updates + 1)

    adapted = optax.GradientTransformation(lambda params: _Updates(jnp.zeros((), jnp.int32)), update)
    return optax.chain(adapted, optax.trace(momentum), optax.scale_by_learning_rate(schedule))


class _Frozen(NamedTuple):
    updates: jax.Array
    inner: Any


def at_times(inner: optax.GradientTransformation, start: int, every: int = 1) -> optax.GradientTransformation:
    """Moves parameters at some updates only; at all others there is no update, no decay, no momentum gathered.

    Args:
      inner: the optimiser; it counts the updates that it makes.
      start: updates before which parameters are still.
      every: from then on, each so many-th update moves them.
    """

    def init(params):
        return _Frozen(jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state, params=None):
        moved, inner_state = inner.update(updates, state.inner, params)
        active = (state.updates >= start) & ((state.updates - start + 1) % every == 0)
        moved = jax.tree.map(lambda u: jnp.where(active, u, jnp.zeros_like(u)), moved)
        inner_state = jax.tree.map(lambda new, old: jnp.where(active, new, old), inner_state, state.inner)
        return moved, _Frozen(state.updates + 1, inner_state)

    return optax.GradientTransformation(init, update)


def _group(config: Any, schedule: Schedule, steps_per_epoch: int, total_steps: int) -> optax.GradientTransformation:
    def mask(params):
        return decayed(params, config.exclude)

    frozen = round(config.frozen_epochs * steps_per_epoch)

    if config.every < 1:
        raise UserError(f"config.optim.*.every is {config.every}: a group moves at each so many-th update, at least 1.")

    def of_run(schedule):  # a group that rests counts its own updates only, but its rates are those of the run
        return lambda count: schedule(frozen + count * config.every + config.every - 1)

    rate, weight_decay = of_run(schedule), decay_rate(config, total_steps)
    if callable(weight_decay):
        weight_decay = of_run(weight_decay)
    decay = optax.add_decayed_weights(weight_decay, mask)
    momentum = optax.trace(config.momentum, nesterov=config.nesterov)
    kinds = {
        "sgd": lambda: optax.chain(decay, momentum, optax.scale_by_learning_rate(rate)),
        "adam": lambda: optax.chain(
            decay, optax.scale_by_adam(config.b1, config.b2), optax.scale_by_learning_rate(rate)
        ),
        "adamw": lambda: optax.adamw(rate, config.b1, config.b2, weight_decay=weight_decay, mask=mask),
        "lars": lambda: lars(
            rate,
            momentum=config.momentum,
            weight_decay=weight_decay,
            trust=config.trust,
            order=config.lars_order,
            mask=mask,
        ),
        "larc": lambda: larc(
            rate,
            momentum=config.momentum,
            weight_decay=weight_decay,
            trust=config.trust,
            clip=config.trust_clip,
            mask=mask,
        ),
    }
    if config.name not in kinds:
        raise UserError(f"config.optim.*.name is '{config.name}'. {nearest(config.name, kinds)}")
    optimizer = kinds[config.name]()
    if config.clip:
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip), optimizer)
    if config.clip_each:
        optimizer = optax.chain(clip_each(config.clip_each), optimizer)
    if frozen or config.every > 1:
        optimizer = at_times(optimizer, frozen, config.every)
    return optimizer


def build(
    config: Any, labels: Any, batch_size: int, steps_per_epoch: int, total_steps: int
) -> tuple[optax.GradientTransformation, dict[str, Schedule]]:
    """Makes the optimiser of all groups.

    Args:
      config: the config's `optim` part: one entry a group.
      labels: the method's tree of group labels; what is labelled 'frozen' never moves.
      batch_size: images an update.
      steps_per_epoch: updates an epoch.
      total_steps: updates of the run.

    Returns:
      the transformation, and each group's learning-rate schedule.

    Raises:
      UserError: for a group without an entry, or an unknown name in one.
    """
    used = sorted(set(jax.tree.leaves(labels)) - {"frozen"})
    missing = [label for label in used if label not in config]
    if missing:
        raise UserError(f"The method has parameter groups {missing} without an entry: add config.optim.{missing[0]}.")
    schedules = {g: learning_rate(config[g], batch_size, steps_per_epoch, total_steps) for g in used}
    groups = {g: _group(config[g], schedules[g], steps_per_epoch, total_steps) for g in used}
    return with_parts(
        config, labels, optax.multi_transform({**groups, "frozen": optax.set_to_zero()}, labels)
    ), schedules


def describe(config: Any, labels: Any, params: Any) -> list[str]:
    """One line a parameter: name, shape, group, and whether it is decayed (and, under LARS, adapted)."""
    masks = {label: jax.tree.leaves(decayed(params, entry.exclude)) for label, entry in config.items()}
    lines = []
    found = zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(labels), strict=True)
    for number, ((path, value), label) in enumerate(found):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        included = label != "frozen" and masks[label][number]
        lines.append(f"{name} {tuple(value.shape)} {label} {'decayed' if included else 'excluded'}")
    return lines
