"""Boxes in the formats of COCO, YOLO and PASCAL VOC."""

import json
import tarfile

import numpy as np
from PIL import Image
import pytest

from ssl_jax import data
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.fast

# Two objects in an image of 40 x 20 pixels: left, top, width, height.
BOXES = {"cat": (4, 2, 10, 8), "dog": (20, 5, 20, 15)}


def coco():
    names = {1: "cat", 7: "dog"}
    annotations = [{"image_id": 5, "category_id": i, "bbox": BOXES[name], "iscrowd": 0} for i, name in names.items()]
    annotations.append({"image_id": 5, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1})
    images = [{"id": 5, "file_name": "a.png"}, {"id": 6, "file_name": "b.png"}]
    categories = [{"id": i, "name": name} for i, name in reversed(names.items())]
    return {"train/boxes.json": json.dumps({"images": images, "annotations": annotations, "categories": categories})}


def yolo():
    lines = [
        f"{i} {(x + w / 2) / 40} {(y + h / 2) / 20} {w / 40} {h / 20}" for i, (x, y, w, h) in enumerate(BOXES.values())
    ]
    return {"train/labels/a.txt": "\n".join(lines) + "\n", "data.yaml": "names:\n  0: cat\n  1: 'dog'\n"}


def voc():
    def item(name, box, difficult=0):
        x, y, w, h = box
        corners = {"xmin": x + 1, "ymin": y + 1, "xmax": x + w, "ymax": y + h}
        bounds = "".join(f"<{k}>{v}</{k}>" for k, v in corners.items())
        return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{bounds}</bndbox></object>"

    items = "".join(item(*pair) for pair in BOXES.items()) + item("cat", (0, 0, 5, 5), 1)
    return {"train/a.xml": f"<annotation>{items}</annotation>"}


def written(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name, size in (("train/images/a.png", (40, 20)), ("train/images/b.png", (20, 30))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*size[::-1], 3), 200, np.uint8)).save(folder / name)
    return str(folder)


@pytest.mark.parametrize("make", [coco, yolo, voc])
def test_the_same_boxes_are_read_from_every_format(tmp_path, make):
    place = written(tmp_path, make())
    d = data.load(f"boxes:{place}", "train")
    assert data.splits(f"boxes:{place}") == ("train",) and d.card.box_classes == ("cat", "dog")
    assert d.images.shape == (2, 40, 40, 3)
    wanted = [[2, 4, 10, 14, 0], [5, 20, 20, 40, 1]]
    np.testing.assert_allclose(d.fields["boxes"][0], wanted, atol=1e-5)
    assert (d.fields["boxes"][1] == -1).all()
    assert (d.images[0, :20] == 200).all() and (d.images[0, 20:] == 114).all()  # the canvas beside the image
    small = data.load(f"boxes:{place}", "train", size=20)
    np.testing.assert_allclose(small.fields["boxes"][0, :, :4], np.array(wanted)[:, :4] / 2, atol=1e-5)
    archive = tmp_path / "all.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / "train", "train")
        for name in make():
            if "/" not in name:
                tar.add(tmp_path / name, name)
    again = data.load("boxes", "train", path=str(archive))
    np.testing.assert_array_equal(again.images, d.images)
    np.testing.assert_array_equal(again.fields["boxes"], d.fields["boxes"])


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"train/boxes.json": "[]"}, r"boxes\.json is no COCO file"),
        ({"train/a.xml": "<annotation>"}, r"a\.xml is no VOC file"),
        ({"train/a.txt": "0 .5 .5 1 1"}, "put classes.txt there"),
        ({"train/a.txt": "3 .5 .5 1 1", "classes.txt": "cat"}, "has the line '3 .5 .5 1 1'"),
        ({"train/a.txt": "0 .5 .5 1", "classes.txt": "cat"}, "has the line '0 .5 .5 1'"),
        ({}, "There are no boxes in"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, files, words):
    place = written(tmp_path, files)
    with pytest.raises(UserError, match=words):
        data.load(f"boxes:{place}", "train")
    with pytest.raises(UserError, match="has no folder test or val/"):
        data.load(f"boxes:{place}", "test")


def test_a_damaged_photograph_is_named(tmp_path):
    place = written(tmp_path, voc())
    (tmp_path / "train/images/b.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"b\.png cannot be read"):
        data.load(f"boxes:{place}", "train")


def test_real_photographs_have_their_boxes(photographs):
    place = photographs / "wave2" / "coco128_320.tar"
    if not place.exists():
        pytest.skip("the second set of archives is not on this machine")
    d = data.load("boxes", "test", path=str(place), size=96)
    assert d.images.shape == (128, 96, 96, 3) and len(d.card.box_classes) == 80
    boxes = d.fields["boxes"]
    there = boxes[boxes[..., 4] >= 0]
    assert d.card.box_classes[0] == "person" and (there[:, 4] == 0).mean() > 0.2
    assert there[:, :4].min() > -0.5 and there[:, :4].max() < 96.5 and (there[:, 2] > there[:, 0]).all()
