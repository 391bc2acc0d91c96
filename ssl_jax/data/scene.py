"""Casts rays into a room with boxes and spheres on its floor, all covered with photographs.

Directions are right, down and forward. The floor is the plane of height 0, and what is above it has negative heights.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

FIELDS = ("mask", "boundary", "depth", "normals", "boxes", "motion")
FLOOR, WALL, BOX, SPHERE = range(4)  # values of a mask
_JUMP = 0.05  # of the depth at an occluding edge, share of the nearer one
_SEEN = 0.002  # share of the image that an object covers to count
_STEPS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], float)


class Thing(NamedTuple):
    """A box or a sphere."""

    kind: int
    centre: np.ndarray  # [3] metres
    half: np.ndarray  # [3] half of its sides, or its radius
    turn: float  # about the vertical axis, radians
    paper: np.ndarray  # photograph uint8 [H, W, 3]
    shift: np.ndarray  # [2] of the paper, pixels


class Camera(NamedTuple):
    """A pinhole camera."""

    place: np.ndarray  # [3] metres
    turn: float  # to the right, radians
    tilt: float  # down, radians
    focal: float  # sides of the image

    @property
    def axes(self) -> np.ndarray:
        """Matrix [3, 3] from the camera's directions to those of the room."""
        c, s, ct, st = np.cos(self.turn), np.sin(self.turn), np.cos(self.tilt), np.sin(self.tilt)
        turned = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        return turned @ np.array([[1, 0, 0], [0, ct, st], [0, -st, ct]])


class Room(NamedTuple):
    """A room and what stands in it."""

    low: np.ndarray  # [3] of its corners, metres
    high: np.ndarray
    papers: Sequence[np.ndarray]  # of the floor and of the walls
    shift: np.ndarray  # [2] of them, pixels
    things: Sequence[Thing]
    light: np.ndarray  # [3] unit vector towards it


@dataclasses.dataclass(frozen=True)
class Frame:
    """What a camera sees of a room; fields as the source `scenes` has them."""

    image: np.ndarray
    mask: np.ndarray
    boundary: np.ndarray
    depth: np.ndarray
    normals: np.ndarray
    boxes: np.ndarray
    objects: int  # that are seen
    motion: np.ndarray


class Hits(NamedTuple):
    """Where rays meet a surface."""

    t: np.ndarray  # [n] distance in units of the direction; infinite where they miss
    normal: np.ndarray  # [n, 3]
    uv: np.ndarray  # [n, 2] place on the paper, metres


def photographs(split: str) -> list[np.ndarray]:
    """Papers for the textures of a split: parts of scikit-learn's photographs, at half their size."""
    from sklearn.datasets import load_sample_images

    found = []
    for photograph in load_sample_images().images:
        height, width = photograph.shape[0] // 2, photograph.shape[1] // 2
        small = np.asarray(Image.fromarray(photograph).resize((width, height), Image.Resampling.BOX))
        border = width * 4 // 5
        found.append(small[:, border:] if split == "test" else small[:, :border])
    return found


def pair(draw: Any, papers: Sequence[np.ndarray], side: int, most: int) -> tuple[Frame, Frame]:
    """Two frames of a new scene, between which the camera moves.

    Args:
      draw: a `RandomState`, whose stream NumPy keeps as it is.
      papers: photographs.
      side: of the frames, pixels.
      most: objects of a scene.
    """
    while True:
        room, first = _room(draw, papers, most), _camera(draw)
        motion = draw.uniform([-0.4, -0.4, -0.2], [0.4, 0.4, 0.2])
        second = moved(first, motion)
        frames = (seen(room, first, side, most, motion), seen(room, second, side, most, -_turned(motion)))
        if all(frame.objects for frame in frames):
            return frames


def _turned(motion: np.ndarray) -> np.ndarray:
    """A motion in the directions of the camera after it."""
    c, s = np.cos(motion[2]), np.sin(motion[2])
    return np.array([c * motion[0] - s * motion[1], s * motion[0] + c * motion[1], motion[2]])


def moved(camera: Camera, motion: np.ndarray) -> Camera:
    """The camera after a motion: metres to its right and forward along the floor, and a turn to the right."""
    c, s = np.cos(camera.turn), np.sin(camera.turn)
    step = np.array([c * motion[0] + s * motion[1], 0.0, -s * motion[0] + c * motion[1]])
    return camera._replace(place=camera.place + step, turn=camera.turn + motion[2])


def _camera(draw: Any) -> Camera:
    place = np.array([draw.uniform(-0.8, 0.8), -draw.uniform(1.2, 1.8), draw.uniform(0.5, 1.0)])
    return Camera(place, draw.uniform(-0.25, 0.25), draw.uniform(0.1, 0.35), draw.uniform(0.8, 1.1))


def _room(draw: Any, papers: Sequence[np.ndarray], most: int) -> Room:
    wide, deep, high = draw.uniform([2.2, 5.0, 2.4], [3.5, 8.0, 3.2])

    def paper() -> np.ndarray:
        return papers[draw.randint(len(papers))]

    things = []
    for _ in range(draw.randint(1, most + 1)):
        kind = draw.choice([BOX, SPHERE])
        half = draw.uniform(0.2, 0.6, 3) if kind == BOX else np.full(3, draw.uniform(0.2, 0.5))
        centre = np.array([draw.uniform(-1.5, 1.5), -half[1], draw.uniform(2.2, 4.8)])
        things.append(Thing(kind, centre, half, draw.uniform(0, np.pi), paper(), draw.uniform(0, 200, 2)))
    light = np.array([draw.uniform(-1, 1), -1.0, draw.uniform(-1, 0.3)])
    low, top = np.array([-wide, -high, -1.0]), np.array([wide, 0.0, deep])
    return Room(low, top, (paper(), paper()), draw.uniform(0, 200, 2), things, light / np.linalg.norm(light))


def seen(room: Room, camera: Camera, side: int, most: int, motion: np.ndarray) -> Frame:
    """Renders a room.

    Args:
      room: what is there.
      camera: from where it is seen.
      side: of the image, pixels.
      most: rows of the boxes.
      motion: what the frame says of the camera.
    """
    v, u = ((np.mgrid[:side, :side] + 0.5) / side - 0.5).reshape(2, -1) / camera.focal
    # A ray goes one metre forward: where it meets something is the depth there.
    rays = np.stack([u, v, np.ones_like(u)], 1) @ camera.axes.T
    hits = [_inside(room, camera.place, rays), *(_thing(thing, camera.place, rays) for thing in room.things)]
    distance = np.stack([hit.t for hit in hits])
    which, every = distance.argmin(0), np.arange(side * side)
    depth = distance[which, every]
    normal = np.stack([hit.normal for hit in hits])[which, every]
    floor = normal[:, 1] < -0.5
    kinds = np.array([WALL, *(thing.kind for thing in room.things)])[which]
    mask = np.where((which == 0) & floor, FLOOR, kinds)
    colour = np.zeros((side * side, 3))
    for number, hit in enumerate(hits):
        rows = which == number
        if number:
            paper, shift = room.things[number - 1].paper, room.things[number - 1].shift
            colour[rows] = _papered(paper, hit.uv[rows], shift)
            continue
        for paper, part in zip(room.papers, (rows & floor, rows & ~floor), strict=True):
            colour[part] = _papered(paper, hit.uv[part], room.shift)
    shade = 0.45 + 0.55 * np.clip(normal @ room.light, 0, 1)
    shape = (side, side)
    boxes, objects = _boxes(which.reshape(shape), [thing.kind for thing in room.things], most)
    return Frame(
        image=np.round(colour * shade[:, None]).astype(np.uint8).reshape(side, side, 3),
        mask=mask.astype(np.uint8).reshape(shape),
        boundary=_edges(which.reshape(shape), depth.reshape(shape)),
        depth=depth.astype(np.float32).reshape(shape),
        normals=(normal @ camera.axes).astype(np.float32).reshape(side, side, 3),
        boxes=boxes,
        objects=objects,
        motion=motion.astype(np.float32),
    )


def _inside(room: Room, place: np.ndarray, rays: np.ndarray) -> Hits:
    """The inside of a box that the camera is in."""
    with np.errstate(divide="ignore", invalid="ignore"):
        times = np.where(rays > 0, (room.high - place) / rays, (room.low - place) / rays)
    times = np.where(np.isfinite(times), times, np.inf)
    axis = times.argmin(1)
    t = times[np.arange(len(rays)), axis]
    at = place + rays * t[:, None]
    return Hits(t, -np.sign(rays) * _STEPS[axis], _others(at, axis))


def _others(at: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """The two coordinates [n, 2] beside an axis."""
    return np.stack([np.where(axis == 0, at[:, 2], at[:, 0]), np.where(axis == 1, at[:, 2], at[:, 1])], 1)


def _thing(thing: Thing, place: np.ndarray, rays: np.ndarray) -> Hits:
    c, s = np.cos(thing.turn), np.sin(thing.turn)
    turned = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])  # to the thing's own directions
    start, own = turned @ (place - thing.centre), rays @ turned.T
    hit = _box(thing, start, own) if thing.kind == BOX else _sphere(thing, start, own)
    return hit._replace(normal=hit.normal @ turned)


def _box(thing: Thing, start: np.ndarray, rays: np.ndarray) -> Hits:
    with np.errstate(divide="ignore", invalid="ignore"):
        times = np.sort(np.stack([(-thing.half - start) / rays, (thing.half - start) / rays]), 0)
    axis = times[0].argmax(1)
    t, leave = times[0].max(1), times[1].min(1)
    t = np.where((t < leave) & (t > 0), t, np.inf)
    at = start + rays * np.where(np.isfinite(t), t, 0)[:, None]
    return Hits(t, -np.sign(rays) * _STEPS[axis], _others(at, axis))


def _sphere(thing: Thing, start: np.ndarray, rays: np.ndarray) -> Hits:
    radius = thing.half[0]
    a, b, c = (rays * rays).sum(1), rays @ start, start @ start - radius**2
    root = b * b - a * c
    t = (-b - np.sqrt(np.maximum(root, 0))) / a
    t = np.where((root > 0) & (t > 0), t, np.inf)
    normal = (start + rays * np.where(np.isfinite(t), t, 0)[:, None]) / radius
    angles = np.stack([np.arctan2(normal[:, 0], normal[:, 2]), np.arcsin(np.clip(normal[:, 1], -1, 1))], 1)
    return Hits(t, normal, angles * radius)


def _papered(paper: np.ndarray, uv: np.ndarray, shift: np.ndarray, scale: float = 60.0) -> np.ndarray:
    """Colours [n, 3] of a paper of so many pixels a metre, which goes on mirrored beyond its ends."""
    height, width = paper.shape[:2]
    column, row = (uv * scale + shift).T
    found = []
    for x, size in ((row, height), (column, width)):
        x = np.floor(x).astype(int) % (2 * size)
        found.append(np.where(x < size, x, 2 * size - 1 - x))
    return paper[found[0], found[1]].astype(float)


def _edges(which: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """The pixels uint8 [H, W] of a surface that hides another beside it."""
    edge = np.zeros(which.shape, bool)
    for axis in (0, 1):
        for step in (-1, 1):
            other, far = np.roll(which, step, axis), np.roll(depth, step, axis)
            hides = (which != other) & (far > depth * (1 + _JUMP))
            ends = [slice(None)] * 2
            ends[axis] = slice(0, 1) if step == 1 else slice(-1, None)
            hides[tuple(ends)] = False  # what came round from the other side
            edge |= hides
    return edge.astype(np.uint8)


def _boxes(which: np.ndarray, kinds: Sequence[int], most: int) -> tuple[np.ndarray, int]:
    """Boxes float32 [most, 5] around what is seen of the objects, and how many are."""
    found = np.full((most, 5), -1, np.float32)
    count = 0
    for number, kind in enumerate(kinds, 1):
        rows, columns = np.nonzero(which == number)
        if len(rows) < max(_SEEN * which.size, 4):
            continue
        found[count] = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1, kind - BOX
        count += 1
    return found, count
