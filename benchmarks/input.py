"""How many images a second does one core decode and crop, beside the plainest Pillow pipeline?

    python benchmarks/input.py PATH [--rounds=5] [--interpolation=bilinear]

PATH is a folder or .tar of photographs. Both pipelines get the same bytes and the same crop boxes: the streaming one
(`ssl_jax.data.crop`) and open, convert to RGB, crop and resize twice, to uint8 arrays. They run in turns in this
process, on one thread; time is the processor's, so that other programs matter less; the ratio is that of the medians.
"""

import argparse
import io
import pathlib
import statistics
import time

import numpy as np
from PIL import Image
import record

from ssl_jax import data
from ssl_jax.augment import draws, threefry
from ssl_jax.augment.boxes import placed
from ssl_jax.augment.view import View
from ssl_jax.data.crop import Crop, cut, simd

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def boxes(view: View, key: np.ndarray, encoded: bytes) -> list[Crop]:
    """Two random resized crops of an image, decided by its key."""
    with Image.open(io.BytesIO(encoded)) as image:
        width, height = image.size
    crops = []
    for stream in range(2):
        own = draws.split(view, threefry.uniform(threefry.fold_in(key, stream), draws.count(view)))
        top, left, box_height, box_width = (float(length) for length in placed(view, own, height, width).box)
        crops.append(Crop(top, left, box_height, box_width, view.size, view.interpolation))
    return crops


def streaming(encoded: bytes, crops: list[Crop]) -> list[np.ndarray]:
    """What a worker does for one image."""
    return cut(encoded, lambda height, width: crops)


def plain(encoded: bytes, crops: list[Crop]) -> list[np.ndarray]:
    """The pipeline that one would write first."""
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    made = []
    for crop in crops:
        box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
        resized = image.crop(box).resize((crop.side, crop.side), FILTERS[crop.interpolation])  # type: ignore[arg-type]
        made.append(np.asarray(resized))
    return made


def main() -> None:
    """Prints both rates, their ratio and how far the crops differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", help="folder or .tar of images")
    parser.add_argument("--rounds", type=int, default=5, help="timed passes over the images of each kind")
    parser.add_argument("--interpolation", choices=FILTERS, default="bilinear", help="of the crops")
    args = parser.parse_args()

    source = f"folder:{pathlib.Path(args.path).absolute()}"
    images = data.load(source, "train", stream=True).images
    encoded = [images.files.read(int(row)) for row in images.rows]
    view = View(size=224, interpolation=args.interpolation)
    keys = threefry.fold_in(np.zeros(2, np.uint32), np.arange(len(encoded)))
    pipelines = {"streaming": streaming, "plain": plain}
    seconds: dict[str, list[float]] = {name: [] for name in pipelines}
    made = {}
    for number in range(args.rounds + 1):
        for name, pipeline in pipelines.items():
            places = [boxes(view, threefry.fold_in(key, number), file) for key, file in zip(keys, encoded, strict=True)]
            began = time.process_time()
            made[name] = [pipeline(*item) for item in zip(encoded, places, strict=True)]
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - began)
    gap = np.mean([np.abs(np.subtract(*pair, dtype=float)).mean() for pair in zip(*made.values(), strict=True)])
    rates = {name: len(encoded) / statistics.median(values) for name, values in seconds.items()}
    library = "cykooz-resizer" if simd else "Pillow"
    print(record.told())
    print(f"{len(encoded)} images, two {view.size}-pixel {args.interpolation} crops each, resized by {library}")
    for name, rate in rates.items():
        print(f"{name}: {rate:.0f} images/s a core")
    print(f"ratio {rates['streaming'] / rates['plain']:.2f}; crops differ by {gap:.2f} / 255 on average")
    settings = {"images": len(encoded), "interpolation": args.interpolation, "library": library}
    record.add({f"{name}, images/s a core": round(rate, 1) for name, rate in rates.items()}, **settings)


if __name__ == "__main__":
    main()
