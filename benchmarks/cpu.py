"""A ResNet-18's training passes on a CPU beside PyTorch's: `python benchmarks/cpu.py [--width=64] [--batch=64]`.

Forward and backward through the backbone (32 px, float32, BatchNorm in training mode, gradients of all parameters), in
ssl_jax, in ssl_jax with XLA's own convolution gradients, and in PyTorch (channels last and not, the faster counts), in
turns in one process; then the same for each of the four kinds of 3x3 layer. Prints medians and ratios as Markdown.
Needs PyTorch beside the package: pip install torch.
"""

import argparse
from collections.abc import Callable
import pathlib
import random
import statistics
import sys
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import torch
from torch import nn

from ssl_jax import dist
from ssl_jax.models import conv
from ssl_jax.models.resnet import ResNet


class TorchBlock(nn.Module):
    """The basic residual block."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if inside != out:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Any) -> Any:
        """[N, C, H, W] to [N, C', H', W']."""
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def torch_resnet18(width: int) -> nn.Module:
    """The backbone of `ResNet('resnet18', width, 'small')` in PyTorch."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    inside = width
    for stage in range(4):
        for block in range(2):
            out = width * 2**stage
            layers.append(TorchBlock(inside, out, 2 if stage and not block else 1))
            inside = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def jax_passes(width: int, x: np.ndarray) -> Callable[[], Any]:
    """Gradients of the mean of squared features, mapped over one device as training maps them."""
    backbone = ResNet("resnet18", width, "small")
    mesh = dist.make_mesh()
    variables = jax.jit(lambda: backbone.init(jax.random.key(0), jnp.zeros((2, 32, 32, 3)), train=True))()

    def step(params, stats, x):
        def loss(params):
            out, _ = backbone.apply({"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"])
            return dist.mean(jnp.mean(out**2))

        return jax.value_and_grad(loss)(params)

    mapped = dist.map_replicas(step, mesh, (P(), P(), P(dist.AXIS)), (P(), P()))
    arguments = variables["params"], variables["batch_stats"], jnp.asarray(x)
    return lambda: jax.block_until_ready(mapped(*arguments))


def torch_passes(width: int, x: np.ndarray, layout: Any) -> Callable[[], Any]:
    """The same in PyTorch."""
    model = torch_resnet18(width).to(memory_format=layout).train()
    images = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).to(memory_format=layout)

    def passes():
        model.zero_grad(set_to_none=True)
        model(images).square().mean().backward()

    return passes


def layer_passes(x: np.ndarray, w: np.ndarray, g: np.ndarray) -> dict[str, dict[str, Callable[[], Any]]]:
    """Forward, input gradient and weight gradient of one convolution: kind to implementation to what runs it."""
    xj, wj, gj = map(jnp.asarray, (x, w, g))
    ours: Any = lambda x, w: conv.conv2d(x, w, 1, 1)  # noqa: E731
    xla: Any = lambda x, w: conv._xla_conv(x, w, 1, 1)  # noqa: E731
    xt, wt, gt = (torch.from_numpy(a) for a in (x, w, g))
    xt, gt = (a.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last) for a in (xt, gt))
    wt = wt.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)

    def compiled(fn: Callable[..., Any]) -> Callable[[], Any]:
        jitted = jax.jit(fn)
        return lambda: jax.block_until_ready(jitted(xj, wj, gj))

    def backward(mask: list[bool]) -> Callable[[], Any]:
        options = (None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask)
        return lambda: torch.ops.aten.convolution_backward(gt, xt, wt, *options)

    found = {}
    for kind, which, mask in (("input", 0, [True, False, False]), ("weight", 1, [False, True, False])):
        found[f"{kind} gradient"] = {
            "ssl_jax": compiled(lambda x, w, g, which=which: jax.vjp(ours, x, w)[1](g)[which]),
            "XLA": compiled(lambda x, w, g, which=which: jax.vjp(xla, x, w)[1](g)[which]),
            "PyTorch": backward(mask),
        }
    forward = {
        "ssl_jax": compiled(lambda x, w, g: ours(x, w)),
        "XLA": compiled(lambda x, w, g: xla(x, w)),
        "PyTorch": lambda: torch.nn.functional.conv2d(xt, wt, padding=1),
    }
    return {"forward": forward} | found


def medians(candidates: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each, run in turns after a first round that compiles.

    Every round has another order: PyTorch's threads wait awake for a while, at the cost of whoever comes next.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    order, turns = list(candidates.items()), random.Random(0)
    for number in range(rounds + 1):
        turns.shuffle(order)
        for name, run in order:
            began = time.perf_counter()
            run()
            if number:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64, help="images")
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage")
    parser.add_argument("--rounds", type=int, default=10, help="timed runs of each")
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    x = rng.normal(size=(args.batch, 32, 32, 3)).astype(np.float32)
    ours = jax_passes(args.width, x)
    own, conv._conv = conv._conv, conv._xla_conv  # what the same network costs with XLA's gradients
    plain = jax_passes(args.width, x)
    candidates = {"ssl_jax": ours, "ssl_jax, XLA's gradients": plain}
    plain()  # compiles while the stand-in is there
    conv._conv = own
    for name, layout in (("channels last", torch.channels_last), ("channels first", torch.contiguous_format)):
        candidates[f"PyTorch, {name}"] = torch_passes(args.width, x, layout)
    seconds = medians(candidates, args.rounds)
    best = min(value for name, value in seconds.items() if name.startswith("PyTorch"))
    print(f"ResNet-18, width {args.width}, batch {args.batch}, 32 px, {torch.get_num_threads()} threads\n")
    print("| | ms | images/s | share of PyTorch's speed |\n|---|---|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {1e3 * value:.0f} | {args.batch / value:.1f} | {best / value:.2f} |")

    print("\n| 3x3 layer | pass | GFLOP/s ssl_jax | XLA | PyTorch |\n|---|---|---|---|---|")
    for stage in range(4):
        side, channels = 32 >> stage, args.width << stage
        x, g = (rng.normal(size=(args.batch, side, side, channels)).astype(np.float32) for _ in range(2))
        w = rng.normal(size=(3, 3, channels, channels)).astype(np.float32)
        work = 2 * 9 * channels**2 * side**2 * args.batch / 1e9
        for kind, runs in layer_passes(x, w, g).items():
            rates = {name: work / value for name, value in medians(runs, args.rounds).items()}
            print(
                f"| {side}x{side}x{channels} | {kind} | " + " | ".join(f"{rate:.0f}" for rate in rates.values()) + " |"
            )


if __name__ == "__main__":
    main()
