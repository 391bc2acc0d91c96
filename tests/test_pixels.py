"""Pixels of any depth and number of channels: nothing of a file is lost without a word."""

import importlib.util
import io
import logging
import struct
import sys
import tarfile
import zipfile
import zlib

import numpy as np
from PIL import Image
import pytest
from test_data import cache, png, shade, write  # noqa: F401

from ssl_jax import data
from ssl_jax.data import look
from ssl_jax.data.crop import Crop
from ssl_jax.data.decode import decode
from ssl_jax.data.reading import Reading
from ssl_jax.runtime.errors import UserError

pytestmark = [pytest.mark.fast, pytest.mark.usefixtures("cache")]


def tiff(a: np.ndarray, photometric: int = 1, extra: int = 0) -> bytes:
    """An uncompressed TIFF [H, W, C] of any type and number of channels."""
    height, width, channels = a.shape
    kind, bits = {"u": 1, "i": 2, "f": 3}[a.dtype.kind], a.dtype.itemsize * 8
    tags = {256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * channels), 259: (3, [1]), 262: (3, [photometric])}
    tags |= {277: (3, [channels]), 278: (4, [height]), 279: (4, [a.nbytes]), 339: (3, [kind] * channels)}
    if (more := channels - (3 if photometric == 2 else 1)) > 0:
        tags[338] = (3, [extra] * more)
    lengths = {tag: (2 if kind == 3 else 4) * len(values) for tag, (kind, values) in tags.items()}
    start = 8 + 2 + 12 * (len(tags) + 1) + 4
    tags[273] = (4, [start + sum(n for n in lengths.values() if n > 4)])
    fields, beyond = b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        place = struct.pack("<I", start + len(beyond)) if len(packed) > 4 else packed.ljust(4, b"\0")
        fields += struct.pack("<HHI", tag, kind, len(values)) + place
        beyond += packed if len(packed) > 4 else b""
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags))
    return head + fields + bytes(4) + beyond + a.astype(a.dtype.newbyteorder("<")).tobytes()


def png16(a: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel [H, W, C], whose rows are stored as differences of neighbours."""
    height, width, channels = a.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = np.frombuffer(a.astype(">u2").tobytes(), np.uint8).reshape(height, width, 2 * channels)
    steps = np.diff(rows, axis=1, prepend=np.zeros((height, 1, 2 * channels), np.uint8))
    body = b"".join(b"\1" + row.tobytes() for row in steps)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def ppm16(a: np.ndarray) -> bytes:
    return f"P6\n{a.shape[1]} {a.shape[0]}\n65535\n".encode() + a.astype(">u2").tobytes()


def with_alpha(a: np.ndarray) -> np.ndarray:
    return np.dstack([a, np.full_like(a[..., 0], 65535)])


def npy(a: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, a)
    return out.getvalue()


def ramp(channels: int, high: float, dtype=np.uint16) -> np.ndarray:
    """Values [24, 20, C] from 0 to `high`, others in each channel."""
    return (np.random.default_rng(0).random((24, 20, channels)) * high).astype(dtype)


@pytest.mark.parametrize(
    "encode",
    [png16, ppm16, lambda a: tiff(a, 2), lambda a: png16(with_alpha(a)), lambda a: tiff(with_alpha(a), 2, 2)],
    ids=["png", "ppm", "tiff", "png with transparency", "tiff with transparency"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_colour_of_sixteen_bits_keeps_its_range(tmp_path, caplog, encode, stream):
    """Pillow alone gives the upper byte: of twelve bits in sixteen, sixteen levels."""
    a = ramp(3, 4095)
    a[0, 0] = 4095
    suffix = {b"P6": "ppm", b"II": "tif"}.get(encode(a)[:2], "png")
    where = write(tmp_path / "images", {f"a/{n}.{suffix}": encode(a) for n in "01"})
    with caplog.at_level(logging.WARNING, "ssl_jax"):
        train = data.load(f"folder:{where}", "train", stream=stream)
    assert train.span == (0.0, 4095.0) and "pixels from 0 to 4095" in caplog.text
    images = np.stack(train.images.cut(0, lambda h, w: [Crop(0, 0, 20, 20, 20)])[0]) if stream else train.images
    wanted = (np.clip(a / 4095.0, 0, 1) * 255 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(images[0], wanted[:20, :20] if stream else wanted)


@pytest.mark.parametrize("kind", [np.uint32, np.int32])
def test_whole_numbers_of_32_bits_keep_their_sign(kind):
    """Pillow takes all of them for signed ones."""
    ends = np.iinfo(kind)
    a = np.linspace(ends.min, ends.max, 480).astype(kind).reshape(24, 20, 1)
    found = decode(tiff(a), reading=Reading(span=(float(ends.min), float(ends.max))))[..., 0].astype(int)
    assert found[0, 0] == 0 and found[-1, -1] == 255 and (np.diff(found.ravel()) >= 0).all()


def test_grey_of_sixteen_bits_with_transparency():
    a = ramp(2, 60000)
    found = decode(png16(a))
    np.testing.assert_array_equal(found[..., 0], (a[..., 0] / 65535.0 * 255 + 0.5).astype(np.uint8))


def test_what_pillow_hides_is_said(tmp_path, caplog):
    """Bands beyond the colours of a TIFF, and the depth of JPEG 2000."""
    where = write(tmp_path / "images", {"a/0.tif": tiff(ramp(4, 255, np.uint8), 2)})
    with caplog.at_level(logging.WARNING, "ssl_jax"):
        data.load(f"folder:{where}", "train")
    assert "some images have 4 channels, of which the first three are used; --config.data.channels" in caplog.text
    out = io.BytesIO()
    Image.fromarray(ramp(3, 255, np.uint8)).save(out, "JPEG2000")
    deep = out.getvalue()
    at = deep.index(b"ihdr") + 14
    deep = deep[:at] + bytes([11]) + deep[at + 1 :]
    assert look.look([lambda: deep], data.Request("train")).notes == (look._SHALLOW,)
    assert look.look([lambda: out.getvalue()], data.Request("train")).notes == ()


@pytest.mark.parametrize("kind", ["jp2", "avif"])
def test_other_kinds_are_read_where_pillow_does(tmp_path, kind):
    from PIL import features

    if {"jp2": "jpg_2000", "avif": "avif"}[kind] not in features.get_supported():
        pytest.skip(f"Pillow was built without {kind}")
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (90, 0, 0)).save(out, {"jp2": "JPEG2000", "avif": "AVIF"}[kind])
    where = write(tmp_path / "images", {f"a/0.{kind}": out.getvalue()})
    assert abs(shade(data.load(f"folder:{where}", "train"))[0] - 90) < 4


def pages(*values: int) -> bytes:
    frames, out = [Image.new("L", (8, 8), value) for value in values], io.BytesIO()
    frames[0].save(out, "TIFF", save_all=True, append_images=frames[1:])
    return out.getvalue()


@pytest.mark.parametrize("stream", [False, True])
def test_all_pages_are_images(tmp_path, caplog, stream):
    layout = {"a/0.tif": pages(10, 20, 30), "b/0.tif": pages(40), "b/1.tif": pages(50, 60), "b/2.tif": b"no image"}
    where = write(tmp_path / "images", layout)
    with caplog.at_level(logging.WARNING, "ssl_jax"):
        train = data.load(f"folder:{where}", "train", pages="all", stream=stream)
    assert "of which the first is used" not in caplog.text
    few = train[:6]
    assert shade(few) if not stream else few.images.pictures(8)[:, 0, 0, 0].tolist() == [10, 20, 30, 40, 50, 60]
    assert few.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert train.content != data.load(f"folder:{where}", "train", stream=stream).content
    with pytest.raises(UserError, match=r"data.pages is 'every': use 'first', 'all' or 'channels'"):
        data.load(f"folder:{where}", "train", pages="every")


def test_a_limit_on_pixels(tmp_path, caplog):
    where = write(tmp_path / "images", {"a/0.png": png(1, size=(8, 8)), "a/1.png": png(2, size=(80, 80))})
    with caplog.at_level(logging.WARNING, "ssl_jax"):
        train = data.load(f"folder:{where}", "train", size=8, max_pixels=100)
    assert len(train) == 1
    assert "left out 1 unreadable" in caplog.text and "80 x 80 pixels are more than data.max_pixels, 100" in caplog.text
    assert len(data.load(f"folder:{where}", "train", size=8)) == 2


def test_a_limit_that_is_raised_is_pillows_too(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    content = png(1, size=(8, 8))
    assert decode(content, reading=Reading(max_pixels=64)).shape == (8, 8, 3)
    with pytest.raises(ValueError, match=r"more than data.max_pixels, 63"):
        decode(content, reading=Reading(max_pixels=63))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("kind", ["npy", "npz", "tiff"])
def test_channels_are_chosen_in_order(tmp_path, kind, dtype):
    a = ramp(5, 250, dtype)
    if kind == "tiff":
        pytest.importorskip("tifffile", reason="the channels of TIFF files are read by tifffile")
        content = tiff(a)
    elif kind == "npz":
        np.savez(tmp_path / "a.npz", image=a, other=a[0])
        content = (tmp_path / "a.npz").read_bytes()
    else:
        content = npy(a)
    span = None if dtype == np.uint8 else (0.0, 255.0)
    found = decode(content, reading=Reading(channels=(4, 0, 2, 2, 1), span=span))
    np.testing.assert_allclose(found, a[..., [4, 0, 2, 2, 1]], atol=1)
    with pytest.raises(ValueError, match=r"it has 5 channel\(s\), and data.channels has number 5"):
        decode(content, reading=Reading(channels=(5,), span=span))
    with pytest.raises(ValueError, match=r"data.channels"):
        decode(content)


def test_a_tiff_of_more_channels_says_what_it_needs(tmp_path, monkeypatch):
    where = write(tmp_path / "images", {"a/0.tif": tiff(ramp(5, 250))})
    with pytest.raises(UserError, match=r"say which channels, data.channels"):
        data.load(f"folder:{where}", "train")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UserError, match=r"tifffile: pip install ssl_jax\[tiff\]"):
        data.load(f"folder:{where}", "train", channels=(0, 1))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy(np.zeros(5)), r"float64 \[5\] where numbers \[H, W, C\] are due"),
        (npy(np.zeros((0, 4, 5))), "are due"),
        (npy(np.array([["a"]])), "are due"),
        (npy(np.zeros((4, 4), object)), "allow_pickle"),
        (b"\x93NUMPY", "."),
        (b"PK\x03\x04", "."),
    ],
)
def test_arrays_that_are_no_images_are_unreadable(tmp_path, content, words):
    where = write(tmp_path / "images", {"a/0.npy": content})
    with pytest.raises(UserError, match=f"None of the 1 images .*{words}"):
        data.load(f"folder:{where}", "train", channels=(0,))


def test_transparency_is_a_channel_where_it_is_asked_for():
    out = io.BytesIO()
    a = ramp(4, 255, np.uint8)
    Image.fromarray(a, "RGBA").save(out, "PNG")
    np.testing.assert_array_equal(decode(out.getvalue(), reading=Reading(channels=(3, 0))), a[..., [3, 0]])


def test_each_channel_has_its_own_range(tmp_path):
    a = np.dstack([ramp(1, 100), ramp(1, 4000), ramp(1, 60000), ramp(1, 200)])
    where = write(tmp_path / "images", {"a/0.npy": npy(a)})
    train = data.load(f"folder:{where}", "train", channels=(0, 1, 2, 3))
    assert train.span == ((0.0,) * 4, (255.0, 4095.0, 65535.0, 255.0))
    given = data.load(f"folder:{where}", "train", channels=(0, 1), range=[[0, 0], [100, 4000]])
    assert given.images.reshape(-1, 2).max(0).tolist() == [252, 254]
    with pytest.raises(UserError, match=r"or, with data.channels, one for each"):
        data.load(f"folder:{where}", "train", channels=(0, 1), range=((0, 0, 0), (1, 1, 1)))


def test_numbers_of_channels_without_meaning(tmp_path):
    where = write(tmp_path / "images", {"a/0.png": png(0)})
    for channels in ((), (-1,), ("a",), (0.5,)):
        with pytest.raises(UserError, match=r"data.channels is .*: give the numbers of channels"):
            data.load(f"folder:{where}", "train", channels=channels)
    with pytest.raises(UserError, match=r"data.channels has number 7"):
        data.load("digits", "train", channels=(7,))


def test_arrays_are_images_where_there_are_no_others(tmp_path, caplog):
    where = write(tmp_path / "images", {"a/0.png": png((7, 0, 0)), "a/labels.npy": npy(np.zeros((4, 4)))})
    with caplog.at_level(logging.WARNING, "ssl_jax"):
        assert shade(data.load(f"folder:{where}", "train")) == [7]
    assert "left out 1 files that are no images by their suffix (1 .npy)" in caplog.text


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_what_is_left_out_of_an_archive_is_said(tmp_path, caplog, suffix):
    where = str(tmp_path / f"images{suffix}")
    with tarfile.open(where, "w:gz" if suffix.endswith("gz") else "w") as tar:
        for name, content in {"a/0.png": png(1), "a/x.dcm": b"x", "a/y.dcm": b"y"}.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    with caplog.at_level(logging.WARNING, "ssl_jax"):
        data.load(f"folder:{where}", "train")
    assert "left out 2 files that are no images by their suffix (2 .dcm)" in caplog.text


@pytest.mark.parametrize("stream", [False, True])
def test_pages_of_a_tiff_may_be_its_channels(tmp_path, stream):
    """As microscopes store them: each page is one channel; a TIFF of one page has its own."""
    tifffile = pytest.importorskip("tifffile", reason="the channels of TIFF files are read by tifffile")
    a, paths = ramp(4, 4000), {}
    for name, pages in {"pages": np.moveaxis(a, -1, 0), "own": a, "few": np.moveaxis(a[..., :2], -1, 0)}.items():
        out = io.BytesIO()
        tifffile.imwrite(out, pages, photometric="minisblack", planarconfig="contig" if name == "own" else None)
        paths[f"{name}/a/0.tif"] = out.getvalue()
    write(tmp_path, paths)

    def load(name, **options):
        found = data.load(f"folder:{tmp_path / name}", "train", size=len(a), stream=stream, **options)
        return found.images.pictures(len(a)) if stream else found.images

    np.testing.assert_array_equal(
        load("pages", channels=(2, 0, 3), pages="channels"), load("own", channels=(2, 0, 3), pages="channels")
    )
    with pytest.raises(UserError, match=r"it has 2 pages, and data.channels has number 3"):
        data.load(f"folder:{tmp_path / 'few'}", "train", channels=(3,), pages="channels")
    with pytest.raises(UserError, match=r"data.pages is 'channels': say which pages"):
        load("pages", pages="channels")


def test_pages_that_are_no_channels(tmp_path):
    """Pages of several sizes, as of a pyramid, and pages of colour."""
    tifffile = pytest.importorskip("tifffile", reason="the channels of TIFF files are read by tifffile")
    for name, pages in {"sizes": [np.zeros((8, 8)), np.zeros((4, 4))], "colour": [np.zeros((8, 8, 3))] * 2}.items():
        out = io.BytesIO()
        with tifffile.TiffWriter(out) as file:
            for page in pages:
                file.write(page.astype(np.uint8), photometric="rgb" if page.ndim == 3 else "minisblack")
        where = write(tmp_path / name, {"a/0.tif": out.getvalue()})
        with pytest.raises(UserError, match=r"its pages have .* where one size \[H, W\] is due"):
            data.load(f"folder:{where}", "train", channels=(0, 1), pages="channels")


def test_photographs_of_phones(tmp_path, caplog):
    """Read with the package; without it the sentence says which."""
    if importlib.util.find_spec("pillow_heif") is None:
        where = write(tmp_path / "images", {"a/0.png": png(7), "a/1.heic": b"x"})
        with caplog.at_level(logging.WARNING, "ssl_jax"):
            data.load(f"folder:{where}", "train")
        assert "(1 .heic) HEIC is read after pip install pillow-heif." in caplog.text
        with pytest.raises(UserError, match=r"no images in .* HEIC is read after pip install pillow-heif"):
            data.load(f"folder:{write(tmp_path / 'heic', {'a/1.heic': b'x'})}", "train")
        return
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (90, 90, 90)).save(out, "HEIF")
    where = write(tmp_path / "images", {"a/0.heic": out.getvalue()})
    for stream in (False, True):
        found = data.load(f"folder:{where}", "train", size=16, stream=stream)
        images = found.images.pictures(16) if stream else found.images
        np.testing.assert_allclose(images, 90, atol=3)


@pytest.mark.parametrize("packed", [False, True])
def test_an_array_holds_what_its_header_promises(tmp_path, packed):
    """Three terabytes are not asked for."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000, 3), }".ljust(117) + b"\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header
    name = "a/0.npy"
    if packed:
        out, name = io.BytesIO(), "a/0.npz"
        with zipfile.ZipFile(out, "w") as file:
            file.writestr("image.npy", content)
        content = out.getvalue()
    with pytest.raises(UserError, match=r"it says uint8 \[1000000, 1000000, 3\], which is more than it holds"):
        data.load(f"folder:{write(tmp_path / 'images', {name: content})}", "train")


def test_an_image_of_no_numbers_is_unreadable(tmp_path):
    where = write(tmp_path / "images", {"a/0.npy": npy(np.full((4, 4), np.nan)), "a/1.npy": npy(np.eye(4))})
    assert len(data.load(f"folder:{where}", "train")) == 1
    alone = write(tmp_path / "alone", {"a/0.npy": npy(np.full((4, 4), np.nan))})
    for stream in (False, True):
        with pytest.raises(UserError, match=r"can be read \(a/0.npy: (none of its pixels|floating-point pixels)"):
            found = data.load(f"folder:{alone}", "train", size=4, stream=stream)
            found.images.pictures(4)
