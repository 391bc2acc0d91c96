"""Source "kitti": frames of a drive with the pose of the camera (KITTI odometry, Geiger et al. 2012)."""

import io
import pathlib
import tarfile

import numpy as np

from ssl_jax.data import places
from ssl_jax.data.arrays import requested
from ssl_jax.data.dataset import Card, Dataset, Request
from ssl_jax.data.decode import decode_all
from ssl_jax.data.tars import open_tar
from ssl_jax.runtime.errors import UserError

CARD = Card(
    channels=1,
    classes=0,
    count=80,
    test_count=20,
    mean=(0.3702,),
    std=(0.3013,),
    mirrors=True,
    new_classes=True,
    licence="CC BY-NC-SA 3.0",
    origin="Geiger et al. 2012, https://www.cvlibs.net/datasets/kitti; sequence 00, frames 0 to 99, grey, halved",
)
WANTED = "kitti00_100stereo_half.tar, or a folder of left/FRAME.jpg and poses.txt"


def splits(where: str, path: str | None) -> tuple[str, ...]:
    """Both splits are there."""
    places.place("kitti", where, path, WANTED)
    return ("train", "test")


def load(where: str, path: str | None, request: Request) -> Dataset:
    """Loads the frames of the left camera in order; the last fifth is test data.

    Args:
      where: kitti00_100stereo_half.tar, or a folder of the same layout.
      path: the same, where `where` is empty.
      request: which split and how large.

    Returns:
      images `[N, 188, 620, 1]` without labels; fields `clip` int32 `[N]`, all zero, and `pose` float32 `[N, 12]`, the
      rows of the 3x4 matrix that takes points from the camera (x right, y down, z ahead) to the world, metres.

    Raises:
      UserError: nothing there, a file is damaged, or there are not as many poses as frames.
    """
    place = places.place("kitti", where, path, WANTED)
    poses = _poses(place)
    limit = Request(request.split, max_gib=request.max_gib)
    with places.opened(place) as files:
        frames = sorted((e for e in files.entries if e.name.startswith("left/")), key=lambda e: e.name)
        if len(frames) != len(poses):
            raise UserError(f"{place} has {len(frames)} frames left/FRAME.jpg, and {len(poses)} poses in poses.txt.")
        first = len(frames) * 4 // 5
        own = slice(first, None) if request.split == "test" else slice(0, first)
        images, _, damaged = decode_all(files.read(frames[own]), len(frames[own]), limit, place)
    if damaged:
        raise UserError(f"{damaged[0]} in {place} cannot be read: fetch it again.")
    fields = {"clip": np.zeros(len(images), np.int32), "pose": poses[own]}
    labels = np.full(len(images), -1, np.int32)
    return requested(Dataset("kitti", images, labels, (), fields, CARD), request)


def _poses(place: str) -> np.ndarray:
    """What poses.txt says, float32 [N, 12]."""
    found = pathlib.Path(place).expanduser()
    try:
        if found.is_dir():
            text = (found / "poses.txt").read_text()
        else:
            with open_tar(found) as tar:
                member = tar.extractfile("poses.txt")
                text = member.read().decode() if member else ""
        return np.loadtxt(io.StringIO(text), ndmin=2).reshape(-1, 12).astype(np.float32)
    except (OSError, KeyError, ValueError, tarfile.TarError) as error:
        raise UserError(f"{place} has no poses.txt of twelve numbers a frame ({error}): fetch it again.") from error
