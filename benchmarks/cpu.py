"""How fast are training passes on a CPU beside PyTorch's?

    python benchmarks/cpu.py [PART ...] [--devices=N] [--width=64] [--batch=64] [--rounds=10]

Parts, by default all:
  resnet  forward and backward through a ResNet-18 (32 px, float32, BatchNorm in training mode, gradients of all
          parameters), in ssl_jax, in ssl_jax with XLA's own convolutions, and in PyTorch (channels last and not, the
          faster counts)
  vit     the same of a ViT-tiny (224 px, patches of 16 pixels)
  layers  forward, input gradient and weight gradient of each kind of 3x3 layer of the ResNet-18
  simclr  a whole step of SimCLR's `cifar10_small`, on data of noise, for itself

All candidates of a part run in turns in one process. The batch is split over N devices, by default one per core.
Prints medians and ratios as Markdown. Needs PyTorch beside the package: pip install torch.
"""

import argparse
from collections.abc import Callable
import os
import pathlib
import random
import statistics
import sys
import time
from typing import Any
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import record
import torch
from torch import nn

from ssl_jax import data, dist
from ssl_jax.batch import index as batch_index
from ssl_jax.data import loader
from ssl_jax.models import conv, conv_xla
from ssl_jax.models.resnet import ResNet
from ssl_jax.models.vit import ViT
from ssl_jax.recipes import get_config
from ssl_jax.run import prepare
from ssl_jax.runtime import malloc
from ssl_jax.step import mapped_step


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


class TorchViT(nn.Module):
    """The backbone of `ViT('vit_tiny')` for 224 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 192, 16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, 192))
        self.positions = nn.Parameter(torch.zeros(1, 197, 192))
        options = {"dropout": 0.0, "activation": "gelu", "layer_norm_eps": 1e-6}
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(192, 3, 768, batch_first=True, norm_first=True, **options)  # type: ignore[arg-type]
                for _ in range(12)
            )
        )
        self.norm = nn.LayerNorm(192, 1e-6)

    def forward(self, x: Any) -> Any:
        """[N, 3, 224, 224] to [N, 192]."""
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.norm(self.blocks(x)[:, 0])


def jax_passes(backbone: Any, x: np.ndarray) -> Callable[[], Any]:
    """Gradients of the mean of squared features, mapped over the devices as training maps them."""
    mesh = dist.make_mesh()
    variables = jax.jit(lambda: backbone.init(jax.random.key(0), jnp.asarray(x[:2]), train=True))()

    def step(params, rest, x):
        def loss(params):
            out, _ = backbone.apply({"params": params, **rest}, x, train=True, mutable=["batch_stats"])
            return dist.mean(jnp.mean(out**2))

        return dist.mean(jax.value_and_grad(loss)(params))

    mapped = dist.map_replicas(step, mesh, (P(), P(), P(dist.AXIS)), P())
    rest = {name: value for name, value in variables.items() if name != "params"}
    params, rest = (dist.replicate(jax.device_get(tree), mesh) for tree in (variables["params"], rest))
    images = dist.lay(x, mesh, P(dist.AXIS))
    return lambda: jax.block_until_ready(mapped(params, rest, images))


def with_xla(backbone: Any, x: np.ndarray) -> Callable[[], Any]:
    """`jax_passes`, compiled with XLA's own convolution in place of ours."""

    def plain(x: Any, w: Any, stride: int, padding: int) -> Any:
        return conv_xla.forward(x, dist.vary_like(w, x), stride=stride, padding=padding)

    with mock.patch.object(conv, "conv2d", plain):
        passes = jax_passes(backbone, x)
        passes()
    return passes


def torch_passes(model: nn.Module, x: np.ndarray, layout: Any) -> Callable[[], Any]:
    """The same in PyTorch."""
    model = model.to(memory_format=layout).train()  # type: ignore[call-overload]
    images = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).to(memory_format=layout)

    def passes():
        model.zero_grad(set_to_none=True)
        model(images).square().mean().backward()

    return passes


def layer_passes(x: np.ndarray, w: np.ndarray, g: np.ndarray, stride: int) -> dict[str, dict[str, Callable[[], Any]]]:
    """Forward, input gradient and weight gradient of one convolution: kind to implementation to what runs it."""
    mesh, split = dist.make_mesh(), P(dist.AXIS)
    xj, gj = (dist.lay(a, mesh, split) for a in (x, g))
    wj = dist.replicate(w, mesh)
    xt, wt, gt = (torch.from_numpy(a) for a in (x, w, g))
    xt, gt = (a.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last) for a in (xt, gt))
    wt = wt.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    step, size, kernel = {"stride": stride, "padding": 1}, x.shape[1:3], w.shape[0]
    calls: dict[str, tuple[Any, Any, Any, tuple[Any, ...], P]] = {
        "forward": (conv.FORWARD.bind, conv_xla.forward, step, (xj, wj), split),
        "input gradient": (conv.INPUT_GRADIENT.bind, conv_xla.input_gradient, step | {"size": size}, (gj, wj), split),
        "weight gradient": (
            conv.WEIGHT_GRADIENT.bind,
            conv_xla.weight_gradient,
            step | {"kernel": kernel},
            (xj, gj),
            P(),
        ),
    }

    def compiled(fn: Any, options: Any, arguments: tuple[Any, ...], out: P) -> Callable[[], Any]:
        def replica(a, b):
            y = fn(a, dist.vary_like(b, a), **options)
            return y if out == split else dist.mean(y)

        specs = tuple(a.sharding.spec for a in arguments)
        mapped = dist.map_replicas(replica, mesh, specs, out)
        return lambda: jax.block_until_ready(mapped(*arguments))

    def backward(mask: list[bool]) -> Callable[[], Any]:
        options = (None, [stride] * 2, [1, 1], [1, 1], False, [0, 0], 1, mask)
        return lambda: torch.ops.aten.convolution_backward(gt, xt, wt, *options)

    in_torch = {
        "forward": lambda: torch.nn.functional.conv2d(xt, wt, stride=stride, padding=1),
        "input gradient": backward([True, False, False]),
        "weight gradient": backward([False, True, False]),
    }
    return {
        kind: {
            "ssl_jax": compiled(ours, options, arguments, out),
            "XLA": compiled(xla, options, arguments, out),
            "PyTorch": in_torch[kind],
        }
        for kind, (ours, xla, options, arguments, out) in calls.items()
    }


def medians(candidates: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each, run in turns after a first round that compiles.

    Every round has another order, and each runs once untimed before it is timed: PyTorch's threads wait awake for a
    while, at the cost of whoever comes next.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    order, turns = list(candidates.items()), random.Random(0)
    for number in range(rounds + 1):
        turns.shuffle(order)
        for name, run in order:
            run()
            began = time.perf_counter()
            run()
            if number:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def print_network(title: str, candidates: dict[str, Callable[[], Any]], batch: int, rounds: int) -> None:
    """The table of one network."""
    seconds = medians(candidates, rounds)
    record.add({f"{name}, s": round(value, 4) for name, value in seconds.items()}, part=title, batch=batch, **devices())
    best = min(value for name, value in seconds.items() if name.startswith("PyTorch"))
    print(f"{title}, batch {batch}, {torch.get_num_threads()} threads, {jax.device_count()} device(s)\n")
    print("| | ms | images/s | share of PyTorch's speed |\n|---|---|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {1e3 * value:.0f} | {batch / value:.1f} | {best / value:.2f} |", flush=True)
    print()


def resnet(args: argparse.Namespace, rng: np.random.Generator) -> None:
    """Prints the table of the ResNet-18."""
    x = rng.normal(size=(args.batch, 32, 32, 3)).astype(np.float32)
    backbone = ResNet("resnet18", args.width, "small")
    candidates = {"ssl_jax": jax_passes(backbone, x), "ssl_jax, XLA's convolutions": with_xla(backbone, x)}
    for name, layout in (("channels last", torch.channels_last), ("channels first", torch.contiguous_format)):
        candidates[f"PyTorch, {name}"] = torch_passes(torch_resnet18(args.width), x, layout)
    print_network(f"ResNet-18, width {args.width}, 32 px", candidates, args.batch, args.rounds)


def vit(args: argparse.Namespace, rng: np.random.Generator) -> None:
    """Prints the table of the ViT-tiny."""
    x = rng.normal(size=(args.batch, 224, 224, 3)).astype(np.float32)
    candidates = {"ssl_jax": jax_passes(ViT("vit_tiny"), x)}
    candidates["PyTorch"] = torch_passes(TorchViT(), x, torch.contiguous_format)
    print_network("ViT-tiny, 224 px", candidates, args.batch, args.rounds)


def layers(args: argparse.Namespace, rng: np.random.Generator) -> None:
    """Prints the table of the layers."""
    found = {}
    print("| 3x3 layer | pass | GFLOP/s ssl_jax | XLA | PyTorch |\n|---|---|---|---|---|")
    for stage in range(4):
        for stride in (1, 2) if stage else (1,):
            side, out = 32 >> stage, args.width << stage
            inside = out // stride
            x = rng.normal(size=(args.batch, side * stride, side * stride, inside)).astype(np.float32)
            g = rng.normal(size=(args.batch, side, side, out)).astype(np.float32)
            w = rng.normal(size=(3, 3, inside, out)).astype(np.float32)
            work = 2 * 9 * inside * out * side**2 * args.batch / 1e9
            for kind, runs in layer_passes(x, w, g, stride).items():
                rates = {library: round(work / value) for library, value in medians(runs, args.rounds).items()}
                name = f"{side * stride}x{side * stride}x{inside} to {out}, stride {stride}"
                print(f"| {name} | {kind} | " + " | ".join(map(str, rates.values())) + " |", flush=True)
                found[f"{name}, {kind}, GFLOP/s"] = rates
    record.add(found, part="layers", batch=args.batch, **devices())
    print()


def simclr_step(args: argparse.Namespace, rng: np.random.Generator) -> None:
    """Prints the time of a whole step of SimCLR's `cifar10_small`."""
    config = get_config("simclr", "cifar10_small")
    noise = data.Dataset(
        "noise",
        rng.integers(0, 256, (1024, 32, 32, 3), np.uint8),
        rng.integers(0, 10, 1024, np.int32),
        tuple("0123456789"),
    )
    run = prepare(config, jax.devices(), (noise, None))
    resident = loader.on_devices(run.train, run.mesh)
    step, state = mapped_step(run), [run.init()]

    def once():
        state[0], metrics = step(state[0], resident, batch_index(run, 0))
        jax.block_until_ready(metrics)

    seconds = medians({"step": once}, args.rounds)["step"]
    print(f"SimCLR cifar10_small, batch {config.batch_size}, {jax.device_count()} device(s): {seconds:.3f} s a step\n")
    record.add({"step, s": round(seconds, 4)}, part="simclr", batch=config.batch_size, **devices())


def devices() -> dict[str, int]:
    """Devices that the CPU counts as, and PyTorch's threads."""
    return {"devices": jax.device_count(), "threads": torch.get_num_threads()}


PARTS = {"resnet": resnet, "vit": vit, "layers": layers, "simclr": simclr_step}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--batch", type=int, default=64, help="images")
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage")
    parser.add_argument("--rounds", type=int, default=10, help="timed runs of each")
    parser.add_argument("--devices", type=int, default=os.cpu_count(), help="that the CPU counts as")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}: use {', '.join(PARTS)}")
    malloc.keep()
    jax.config.update("jax_num_cpu_devices", args.devices)
    print(record.told(), "\n")
    for part in args.parts or PARTS:
        PARTS[part](args, np.random.default_rng(0))


if __name__ == "__main__":
    main()
