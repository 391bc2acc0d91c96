"""How fast does SimCLR train on one GPU beside PyTorch?

    python benchmarks/gpu.py [--batch=512] [--updates=20]

The preset is `cifar10_lightly`.

The whole training step on images that live on the device (random crops, colour, ResNet-18, head, NT-Xent, optimiser),
in bfloat16, in ssl_jax with several updates a call and one a call, and in PyTorch (channels last, compiled, fused
optimiser, both views' recipe in one order of its colour ops and without antialiasing, which is less work than ours), in
turns in one process. Prints views a second, the minutes that 200 epochs of CIFAR-10's 50,000 images would take, and
the ratio to PyTorch's speed, as Markdown. Images are noise: speed does not depend on them.
Needs PyTorch beside the package: pip install torch.
"""

import argparse
from collections.abc import Callable
import math
import os
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave PyTorch its memory

from cpu import medians, torch_resnet18
import jax
import numpy as np
import record
import torch
from torch import nn
from torch.nn import functional as F

from ssl_jax import data
from ssl_jax.batch import make_loader
from ssl_jax.recipes import get_config
from ssl_jax.run import prepare
from ssl_jax.step import mapped_step, mapped_steps

IMAGES, EPOCHS = 50_000, 200  # of CIFAR-10, and of lightly's benchmark
LOG_RATIO = math.log(4 / 3)  # of a crop's sides at most


def ssl_jax_updates(images: np.ndarray, batch: int, width: int, updates: int, in_one_call: bool) -> Callable[[], Any]:
    """A function that makes so many updates of the preset, from the state that the call before it left."""
    config = get_config("simclr", "cifar10_lightly")
    config.batch_size, config.model.width, config.model.dtype = batch, width, "bfloat16"
    noise = data.Dataset("noise", images, np.zeros(len(images), np.int32), tuple("0123456789"))
    run = prepare(config, jax.devices()[:1], (noise, None))
    step = mapped_steps(run) if in_one_call else mapped_step(run)
    source, state = make_loader(run, 0), run.init()

    def several() -> None:
        nonlocal state
        if in_one_call:
            state, metrics = step(state, *source(updates))
        else:
            for _ in range(updates):
                state, metrics = step(state, *source())
        jax.block_until_ready((state, metrics))

    return several


def torch_updates(images: np.ndarray, batch: int, width: int, updates: int, device: torch.device) -> Callable[[], Any]:
    """The same in PyTorch."""
    features = 8 * width
    backbone = torch_resnet18(width)
    head = nn.Sequential(
        nn.Linear(features, 512, bias=False),
        nn.BatchNorm1d(512),
        nn.ReLU(),
        nn.Linear(512, 128, bias=False),
        nn.BatchNorm1d(128),
    )
    model = nn.Sequential(backbone, head).to(device, memory_format=torch.channels_last).train()
    rate = 0.12 * batch / 256
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=5e-4, fused=device.type == "cuda")
    resident = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(device)
    cast = torch.autocast(device.type, torch.bfloat16)

    def loss(chosen: torch.Tensor) -> torch.Tensor:
        views = [torch_view(chosen).to(memory_format=torch.channels_last) for _ in range(2)]
        with cast:
            z1, z2 = (model(view) for view in views)
        return torch_nt_xent(z1.float(), z2.float(), 0.5)

    compiled = torch.compile(loss, fullgraph=True)

    def several() -> None:
        for _ in range(updates):
            rows = torch.randint(len(resident), (batch,), device=device)
            optimizer.zero_grad(set_to_none=True)
            compiled(resident[rows].float() / 255).backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return several


def torch_nt_xent(z1: torch.Tensor, z2: torch.Tensor, temperature: float) -> torch.Tensor:
    """NT-Xent of projections [n, D]."""
    z = F.normalize(torch.cat([z1, z2]))
    n = len(z1)
    others = ~torch.eye(2 * n, dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).where(others, -torch.inf)
    positives = torch.arange(2 * n, device=z.device).roll(n)
    return F.cross_entropy(logits, positives)


def torch_view(x: torch.Tensor) -> torch.Tensor:
    """Views that lightly takes of CIFAR: images [N, 3, H, W] in [0, 1], each by its own numbers, to normalised."""
    n = len(x)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.empty(n, *shape, device=x.device).uniform_(low, high)

    area, ratio = uniform(0.08, 1.0), torch.exp(uniform(-LOG_RATIO, LOG_RATIO))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    left, top = ((2 * uniform(0, 1) - 1) * (1 - side) for side in (width, height))
    mirrored = width * torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(area)
    theta = torch.stack([torch.stack([mirrored, zero, left], -1), torch.stack([zero, height, top], -1)], 1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)

    def sometimes(probability: float, changed: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.where(uniform(0, 1, 1, 1, 1) < probability, changed, x)

    def luma(x: torch.Tensor) -> torch.Tensor:
        return (x * x.new_tensor([0.2989, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)

    def blend(x: torch.Tensor, reference: Any, strength: float) -> torch.Tensor:
        factor = uniform(1 - strength, 1 + strength, 1, 1, 1)
        return (factor * x + (1 - factor) * reference).clamp(0, 1)

    jittered = blend(x, 0.0, 0.4)
    jittered = blend(jittered, luma(jittered).mean((2, 3), keepdim=True), 0.4)
    jittered = blend(jittered, luma(jittered), 0.4)
    jittered = torch_hue(jittered, uniform(-0.1, 0.1, 1, 1))
    x = sometimes(0.8, jittered, x)
    x = sometimes(0.2, luma(x).expand_as(x), x)
    mean, std = (x.new_tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (x - mean) / std


def torch_hue(x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Turns the hue of images [N, 3, H, W] by `shift` [N, 1, 1] turns of the colour circle."""
    r, g, b = x.unbind(1)
    value, low = x.amax(1), x.amin(1)
    chroma = value - low
    safe = torch.where(chroma > 0, chroma, 1.0)
    sector = torch.where(value == r, (g - b) / safe, torch.where(value == g, (b - r) / safe + 2, (r - g) / safe + 4))
    sector = torch.where(chroma > 0, sector, 0.0) + 6 * shift
    places = [(sector + offset) % 6 for offset in (5.0, 3.0, 1.0)]
    return torch.stack([value - chroma * torch.minimum(k, 4 - k).clamp(0, 1) for k in places], 1)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512, help="images an update")
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage")
    parser.add_argument("--updates", type=int, default=20, help="of one turn, and of one call")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each")
    parser.add_argument("--images", type=int, default=IMAGES, help="that live on the device")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if (jax.default_backend() == "gpu") != (device.type == "cuda"):
        raise SystemExit(
            f"JAX runs on {jax.default_backend()} and PyTorch on {device.type}: install both for the same device, for "
            "JAX with pip install -e .[gpu]."
        )
    torch.backends.cudnn.benchmark = True  # as XLA does, try which convolutions are quickest
    images = np.random.default_rng(0).integers(0, 256, (args.images, 32, 32, 3), np.uint8)
    sizes = images, args.batch, args.width, args.updates
    candidates = {
        f"ssl_jax, {args.updates} updates a call": ssl_jax_updates(*sizes, in_one_call=True),
        "ssl_jax, one update a call": ssl_jax_updates(*sizes, in_one_call=False),
        "PyTorch": torch_updates(*sizes, device),
    }
    seconds = medians(candidates, args.rounds)
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else device
    print(record.told())
    print(f"SimCLR, ResNet-18 of width {args.width}, batch {args.batch}, 32 px, bfloat16; jax on", end=" ")
    print(f"{jax.devices()[0].device_kind} ({jax.__version__}), torch on {named} ({torch.__version__})\n")
    print(f"| | views/s | minutes of {EPOCHS} epochs | times PyTorch's speed |\n|---|---|---|---|")
    for name, value in seconds.items():
        minutes = value / args.updates * (IMAGES // args.batch) * EPOCHS / 60
        views = 2 * args.batch * args.updates / value
        print(f"| {name} | {views:,.0f} | {minutes:.1f} | {seconds['PyTorch'] / value:.2f} |")
    rates = {f"{name}, views/s": round(2 * args.batch * args.updates / value) for name, value in seconds.items()}
    record.add(rates, batch=args.batch, width=args.width, updates=args.updates)


if __name__ == "__main__":
    main()
