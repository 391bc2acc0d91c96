"""What a training step costs beside the passes that its method cannot do without.

    python benchmarks/step_overhead.py [--batch=64] [--width=64] [--rounds=5]

The full SimCLR step (gather from the data set, augmentation, backbone, head, loss, optimiser, metrics) over the
bare one: forward and backward through backbone and head of both views, ready-made, under a loss that is one product.
Both run in this process, in turns, and the ratio is that of the medians.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from configs import simclr
from ssl_jax import data, dist, train
from ssl_jax.methods import apply


def bare_step(run: train.Run):
    """Gradient of all parameters for two ready views, by the passes of SimCLR's definition."""
    method = run.method

    def step(params, state, view1, view2):
        def loss(params):
            stats, total = state["stats"], 0.0
            for x in (view1, view2):
                h, stats = apply(method.backbone, "backbone", params, stats, x, train=True)
                z, stats = apply(method._head(), "projector", params, stats, h, train=True)
                total += jnp.mean(z * z[::-1])
            return dist.mean(total), stats

        return jax.value_and_grad(loss, has_aux=True)(params)

    split = P(dist.AXIS)
    return dist.map_replicas(step, run.mesh, (P(), P(), split, split), ((P(), P()), P()))


def main() -> None:
    """Prints both times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64, help="images a step")
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage of the ResNet-18")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each kind")
    args = parser.parse_args()

    # Speed does not depend on what the images show: noise in the shape of CIFAR-10 stands in for it.
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1024, 32, 32, 3), np.uint8)
    noise = data.Dataset("noise", images, rng.integers(0, 10, 1024, np.int32), tuple("0123456789"))
    train.load_data = lambda config: (noise, None)
    config = simclr.get_config("cifar10_small")
    config.batch_size, config.model.width = args.batch, args.width
    run = train.prepare(config)

    full, bare = train.mapped_step(run), bare_step(run)
    ts = run.init()
    resident = dist.replicate((run.train.images, run.train.labels), run.mesh)
    views = [jnp.asarray(rng.normal(size=(args.batch, 32, 32, 3)), jnp.float32) for _ in range(2)]
    times: dict[str, list[float]] = {"full": [], "bare": []}
    for number in range(args.rounds + 1):
        index = train.batch_index(run, number)
        began = time.perf_counter()
        ts, metrics = full(ts, *resident, index)
        jax.block_until_ready((ts, metrics))
        middle = time.perf_counter()
        jax.block_until_ready(bare(ts.params, ts.state, *views))
        if number:  # the first round compiles
            times["full"].append(middle - began)
            times["bare"].append(time.perf_counter() - middle)
    medians = {name: statistics.median(values) for name, values in times.items()}
    device = jax.devices()[0].device_kind
    print(f"SimCLR, ResNet-18 of width {args.width}, batch {args.batch}, 32 px, {jax.device_count()} x {device}")
    print(f"full step {medians['full']:.3f} s, bare passes {medians['bare']:.3f} s")
    print(f"ratio {medians['full'] / medians['bare']:.3f}")


if __name__ == "__main__":
    main()
