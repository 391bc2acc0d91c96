"""Training cards of videos: clips, with masks or the poses of the camera."""

from dataclasses import replace

from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.recipes.layer import Card

_CLIPS = View(size=32, flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, shared=True)  # of all frames alike

VIDEOS = {
    "photo_pans": Card(
        about="32x32 clips of a window that moves over two photographs: video without a download.",
        source="photo_pans",
        side=32,
        benchmark=True,
        has=frozenset({"clips"}),
        strong=recipes.LIGHTLY_SIMCLR,
        weak=View(size=32, area=(0.5, 1.0), flip=0.5, shared=True, mean=(0.44,), std=(0.3,)),
        epochs=10,
        model={"name": "convnet", "width": 32},
        eval={"knn_k": 20},
    ),
    "photo_movers": Card(
        about="32x32 clips of an object that moves over a photograph: masks and motion without a download.",
        source="photo_movers",
        side=32,
        benchmark=True,
        has=frozenset({"clips"}),
        strong=recipes.LIGHTLY_SIMCLR,
        weak=View(size=32, area=(0.8, 1.0), flip=0.5, shared=True, mean=(0.42,), std=(0.33,)),
        epochs=10,
        model={"name": "convnet", "width": 32},
        eval={"knn_k": 20},
    ),
    "davis": Card(
        about="Videos of DAVIS 2016 at 64 pixels, in crops of 32.",
        source="davis",
        side=32,
        benchmark=True,
        has=frozenset({"clips"}),
        # With ten videos to learn from, crops and colours have to make up for scenes; without jitter 3 points less.
        weak=replace(_CLIPS, area=(0.15, 0.6), jitter=1.0, hue=0.1, mean=(0.44,), std=(0.26,)),
        epochs=20,
        data={"size": 64},
        model={"name": "convnet", "width": 16},
    ),
    "kitti": Card(
        about="A hundred frames of a drive at 64 pixels, with the poses of the camera (KITTI odometry, sequence 00).",
        source="kitti",
        side=64,
        channels=1,
        benchmark=True,
        has=frozenset({"clips"}),
        weak=View(size=64, crop="centre", order=("crop",), mean=(0.3702,), std=(0.3013,)),
        epochs=40,
        batch_size=8,
        data={"size": 64},
        model={"name": "convnet", "width": 32},
        run={"eval_epochs": 0.0},
    ),
}
