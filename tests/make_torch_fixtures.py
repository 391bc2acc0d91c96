"""Makes tests/data/*.npz: state dicts of torchvision and timm, narrow and random, and the features that torch finds.

    python tests/make_torch_fixtures.py        where torch, torchvision and timm are installed

The tests need none of them.
"""

import pathlib

import numpy as np
import torch
from torch import nn

try:
    import torchvision
except RuntimeError:  # a torchvision of another torch lacks its compiled operators, of which its models need none
    absent = torch.library.Library("torchvision", "DEF")  # lives as long as this name does
    for name in ("nms", "qnms"):
        absent.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision
import timm
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

DATA = pathlib.Path(__file__).parent / "data"


def narrow_resnet(block: type, blocks: list[int], width: int, small: bool) -> nn.Module:
    model = ResNet(block, blocks)
    model.inplanes = width
    model.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False) if small else nn.Conv2d(3, width, 7, 2, 3, bias=False)
    model.bn1 = nn.BatchNorm2d(width)
    for i, count in enumerate(blocks):
        setattr(model, f"layer{i + 1}", model._make_layer(block, width * 2**i, count, stride=1 if i == 0 else 2))
    if small:
        model.maxpool = nn.Identity()
    model.fc = nn.Identity()
    return model


def shaken(model: nn.Module) -> nn.Module:
    """Statistics, scales and offsets that are not those of initialisation, so that each of them counts."""
    with torch.no_grad():
        for name, x in model.named_parameters():
            x.copy_(
                torch.randn_like(x) * (0.5 if x.ndim > 1 else 0.1) + (1.0 if "weight" in name and x.ndim == 1 else 0)
            )
            if x.ndim == 4:
                x.mul_(2 / x[0].numel() ** 0.5)
        for name, x in model.named_buffers():
            if name.endswith("running_mean"):
                x.copy_(torch.randn_like(x) * 0.2)
            elif name.endswith("running_var"):
                x.copy_(torch.rand_like(x) + 0.5)
    return model.eval()


def store(name: str, model: nn.Module, size: int) -> None:
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = shaken(model)(images)
    arrays = {f"state/{k}": v.numpy() for k, v in model.state_dict().items()}
    np.savez_compressed(DATA / f"{name}.npz", images=images.numpy(), features=features.numpy(), **arrays)


def main() -> None:
    torch.manual_seed(0)
    DATA.mkdir(exist_ok=True)
    store("torchvision_resnet18", narrow_resnet(BasicBlock, [2, 2, 2, 2], 2, small=False), 32)
    store("torchvision_resnet50_small", narrow_resnet(Bottleneck, [3, 4, 6, 3], 1, small=True), 16)
    vit = torchvision.models.VisionTransformer(16, 4, 2, 2, 16, 64)
    vit.heads = nn.Identity()
    store("torchvision_vit", vit, 16)
    store("timm_vit", timm.models.VisionTransformer(16, 4, embed_dim=16, depth=2, num_heads=2, num_classes=0), 16)


if __name__ == "__main__":
    main()
