"""How good are the features of lightly's SimCLR and BYOL under the settings of `cifar10_small`?

    python benchmarks/lightly_small.py byol --data=PATH [--seed=1] [--epochs=20]

SimCLR or BYOL in PyTorch, put together from lightly's own networks, heads, losses, momentum update and transforms with
the numbers that the preset has, on the same images; then kNN as ssl_jax measures it. Prints the accuracy every five
epochs, and at the end a line for docs/runs.jsonl. One thread, as long as a run of this project on one core.
Needs lightly beside the package: pip install lightly.
"""

import argparse
from collections.abc import Callable
import copy
import json
import pathlib
import sys
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import lightly
from lightly.loss import NegativeCosineSimilarity, NTXentLoss
from lightly.models import ResNetGenerator, utils
from lightly.models.modules import heads
from lightly.transforms.byol_transform import BYOLTransform, BYOLView1Transform, BYOLView2Transform
from lightly.transforms.simclr_transform import SimCLRTransform
import numpy as np
from PIL import Image
import torch
from torch import nn
from torchvision import transforms

from ssl_jax import data
from ssl_jax.augment.view import IMAGENET_MEAN, IMAGENET_STD
from ssl_jax.metrics import knn

SCHEDULE, BATCH, WIDTH = 20, 256, 16  # epochs of the cosine, images an update, channels of the first stage
FEATURES = 8 * WIDTH


def backbone() -> nn.Module:
    """The benchmark's ResNet-18: its last layer is taken off, which also loses the stem's ReLU."""
    net = ResNetGenerator("resnet-18", width=WIDTH / 64)
    return nn.Sequential(*list(net.children())[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten())


def simclr() -> tuple[nn.Module, Callable[..., Any], Any]:
    """Networks that are trained, of which the first is the backbone; loss of two views; transform of an image."""
    f, g, criterion = backbone(), heads.SimCLRProjectionHead(FEATURES, FEATURES, FEATURES), NTXentLoss(0.5)
    views = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)
    return nn.ModuleList([f, g]), lambda x0, x1: criterion(g(f(x0)), g(f(x1))), views


def byol() -> tuple[nn.Module, Callable[..., Any], Any]:
    """As `simclr`."""
    f = backbone()
    g, q = heads.BYOLProjectionHead(FEATURES, 1024, 256), heads.BYOLPredictionHead(256, 1024, 256)
    f_xi, g_xi, criterion = copy.deepcopy(f), copy.deepcopy(g), NegativeCosineSimilarity()
    views = BYOLTransform(
        BYOLView1Transform(input_size=32, gaussian_blur=0.0), BYOLView2Transform(input_size=32, gaussian_blur=0.0)
    )

    def loss(x0, x1):
        utils.update_momentum(f, f_xi, 0.99)
        utils.update_momentum(g, g_xi, 0.99)
        p0, p1 = q(g(f(x0))), q(g(f(x1)))
        with torch.no_grad():
            z0, z1 = g_xi(f_xi(x0)), g_xi(f_xi(x1))
        return (criterion(p0, z1) + criterion(p1, z0)) / 2

    return nn.ModuleList([f, g, q]), loss, views


def accuracy(f: nn.Module, bank: data.Dataset, queries: data.Dataset) -> float:
    """Accuracy of kNN (k = 20, T = 0.1) on features of the frozen backbone."""
    plain = transforms.Compose([transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])

    def features(images: np.ndarray) -> np.ndarray:
        blocks = [torch.stack([plain(x) for x in images[i : i + 500]]) for i in range(0, len(images), 500)]
        return np.concatenate([f(block).numpy() for block in blocks])

    f.eval()
    with torch.no_grad():
        found = features(bank.images), bank.labels, features(queries.images), queries.labels
    f.train()
    return knn.top1(*found, num_classes=len(bank.classes), k=20, temperature=0.1)


def main() -> None:
    """Trains and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=["simclr", "byol"])
    parser.add_argument(
        "--data", metavar="PATH", required=True, help="CIFAR-10: folder or tar of train/CLASS, test/CLASS"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=SCHEDULE, help="after which it ends, on the schedule of 20")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    train = data.load(f"folder:{args.data}", "train", per_class=1000)
    test = data.load(f"folder:{args.data}", "test")
    images = [Image.fromarray(x) for x in train.images]
    model, loss_of, transform = {"simclr": simclr, "byol": byol}[args.method]()
    optimizer = torch.optim.SGD(model.parameters(), 0.12, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, SCHEDULE)
    began, curve = time.time(), {"0": round(accuracy(model[0], train, test), 4)}
    print(f"epoch 0  kNN {curve['0']}", flush=True)
    for epoch in range(1, args.epochs + 1):
        losses = []
        for rows in torch.randperm(len(images))[: len(images) // BATCH * BATCH].view(-1, BATCH):
            pairs = [transform(images[row]) for row in rows]
            loss = loss_of(*(torch.stack(view) for view in zip(*pairs, strict=True)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
        told = ""
        if epoch % 5 == 0:
            curve[f"{epoch}"] = round(accuracy(model[0], train, test), 4)
            told = f"  kNN {curve[f'{epoch}']}"
        print(f"epoch {epoch}  loss {np.mean(losses):.4f}  {(time.time() - began) / 60:.1f} min{told}", flush=True)
    row = {
        "config": f"benchmarks/lightly_small.py {args.method}",
        "seed": args.seed,
        "device": "1 CPU core",
        "minutes": round((time.time() - began) / 60, 1),
        "note": f"lightly {lightly.__version__}, torch {torch.__version__}, jax {jax.__version__} for kNN",
        "data": pathlib.Path(args.data).name,
        "knn_top1": curve,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
