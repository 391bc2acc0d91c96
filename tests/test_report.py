"""The report: every section filled or saying why, in a browser too, from runs of every kind."""

import base64
import html
import io
import json
import re
import shutil

import jax
import numpy as np
from PIL import Image
import pytest
import tiny

from ssl_jax import report
from ssl_jax.methods import build
from ssl_jax.methods.contract import Method, Picture
from ssl_jax.methods.pretext.rotation import Rotation
from ssl_jax.models.vit import SIZES, ViT
from ssl_jax.report import bars, curves, neighbours, network, page, runs, summary, tables
from ssl_jax.workdir.checkpoint import Checkpoints
from ssl_jax.workdir.results import numbers

pytestmark = pytest.mark.usefixtures("quick_compilation")

RESULTS = {
    "feature_std": 0.1,
    "rankme": 3.25,
    "knn/top1": 0.9,
    "knn/top1_untrained": 0.5,
    "linear_lbfgs/top1": 0.91,
    "layers/1/top1": 0.4,
    "layers/2/top1": 0.6,
    "fine_tune/1/top1": 0.3,
    "fine_tune/10/top1": 0.6,
    "fine_tune/10/top1_supervised": 0.5,
    "fine_tune/frozen2/top1": 0.55,
    "few_shot/5way_1shot/prototypes": 0.61,
    "few_shot/5way_1shot/prototypes_ci95": 0.02,
    "label_curve/1/top1_untrained": 0.2,
    "label_curve/1/top1_std_untrained": 0.03,
    "retrieval/recall@5": 0.7,
    "pretext/psnr": 21.5,
    "pretext/psnr_baseline": 12.0,
    "few_label/1/pixels": 0.6,
    "few_label/1/pixels_std": 0.1,
    "few_label/all/pixels": 0.9,
    "few_label/all/pixels_std": 0.0,
    "few_label/1/pretrained": 0.7,
    "few_label/1/pretrained_std": 0.1,
    "step": 30,
    "seed": 0,
    "device": "1 x cpu",
    "evaluation_seconds": 61.0,
}


def entries(count):
    for step in range(1, count + 1):
        yield {"step": step, "epoch": step / 10, "loss": 1 / step, "probe_top1": 0.1, "images_per_second": 50.0}
    yield {"step": count, "epoch": count / 10, "feature_std": 0.1, "feature_std_healthy": 0.2, "rankme": 3.0}
    yield {"step": count, "epoch": count / 10, "knn/top1": 0.8, "count_gap": 1.0, "count_gap/chance": 2.0}


def write(folder, config, ts=None, results=None, count=30):
    """A workdir as training leaves it, with a line that is half written."""
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json())
    lines = [json.dumps(e) + "\n" for e in entries(count)]
    (folder / "metrics.jsonl").write_text("".join(lines) + '{"step": 31, "lo')
    if results is not None:
        (folder / "results.json").write_text(json.dumps(results))
    if ts is not None:
        checkpoints = Checkpoints(folder, 1)
        checkpoints.save(count, ts, {})
        checkpoints.close()
    return folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of digits whose name would be markup."""
    ts = tiny.fresh(tiny.run("rotation")).replace(step=jax.numpy.int32(30))
    return write(tmp_path_factory.mktemp("runs") / "<b>run & one", tiny.config("rotation"), ts, RESULTS)


@pytest.fixture(scope="module")
def drawn(workdir, tmp_path_factory):
    """The page of two runs; the method shows pictures."""
    config = tiny.config("rotation", **{"seed": 1, "optim.default.learning_rate": 0.7})
    other = write(tmp_path_factory.mktemp("other") / "two", config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rotation, "pictures", show)
        path = report.report(str(workdir), str(other), image=3)
    return path.read_text()


def show(self, params, state, batch, *, rng):
    assert batch["view"].shape[0] == len(batch["label"]) == 6
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(params))
    images = np.linspace(0, 1, 2 * 2 * 8 * 8).reshape(2, 2, 8, 8, 1)
    return [Picture("What <it> answers", ("seen", "said"), images, (("a", "0"), ("b", "<1>")))]


def sections(text):
    """Heading to content."""
    found = re.findall(r"<section[^>]*>(?:<details><summary>)?<h2>(.*?)</h2>(.*?)</section>", text, re.S)
    return {html.unescape(k): v for k, v in found}


def test_every_section_is_filled(drawn):
    found = sections(drawn)
    assert len(found) == 15
    assert not [k for k, v in found.items() if 'class="none"' in v or len(v) < 100]


def test_text_is_escaped_and_nothing_is_fetched(drawn):
    assert "<b>run" not in drawn and "&lt;b&gt;run &amp; one" in drawn
    assert "<it>" not in drawn and "<1>" not in drawn
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", drawn.replace('xlink:href="#', ""))
    assert not re.search(r"url\((?!data:|#)|@import", drawn)
    assert len(drawn) < 6e6


def test_sections_show_what_they_are_of(drawn):
    found = sections(drawn)
    results = found["All results"]
    assert "recall among the first 5 ↑" in results and "70.0 %" in results
    assert "61.0 ± 2.0 %" in results and "21.5" in results and "knn/top1" not in results
    assert '<abbr title="Weighted vote of the nearest training images.">kNN accuracy ↑</abbr>' in results
    # One row a group of seeds, chance and the baselines once: the other run has not been evaluated.
    assert found["Summary"].count("<tr") == 1 + 3 + 2 and "<b>90.0</b>" in found["Summary"]
    assert found["Accuracy against labels"].count("<svg") == 3  # few_label, label_curve and fine_tune
    assert found["Other evaluations"].count("<svg") == 5  # kNN, linear probe, stages, few-shot and retrieval
    assert found["Training"].count("<svg") == 3 and "two" in found["Training"]
    further = found["Further curves"]  # rank, probe and count_gap: what is to be compared with is no chart of its own
    assert further.count("<svg") == 3 and "Health of the features" in further
    assert found["Views"].count("<img") == 12
    assert found["What the pretext task looks like"].count("<img") == 4
    similar = found["What the network finds similar"]
    assert similar.count("<img") == 8 * 7 and similar.count("<svg") == 2
    assert "✓" in similar and "✗" in similar
    assert found["First filters"].count("<img") == 4
    assert found["Feature maps"].count("<img") == 3 + 4 + 8 + 8  # a convnet of 4, 8 and 16 channels
    assert "optim.default.learning_rate" in found["Differences between configs"]
    assert "epochs" not in found["Differences between configs"]


def test_a_browser_shows_it(drawn, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium is installed")
    path = tmp_path / "report.html"
    path.write_text(drawn)
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for width, scheme in ((1200, "dark"), (360, "light")):
            tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
            tab.set_default_timeout(120_000)  # the machine may be busy
            said, asked = [], []
            tab.on("console", lambda message, said=said: said.append(message.text))
            tab.on("pageerror", lambda error, said=said: said.append(str(error)))
            tab.on("request", lambda request, asked=asked: asked.append(request.url))
            tab.goto(path.as_uri())
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            unfold = "document.querySelectorAll('section > details').forEach(d => d.open = true)"
            tab.evaluate(unfold)
            low = "[...document.querySelectorAll('section')].filter(s => s.offsetHeight < 60).map(s => s.id)"
            assert tab.evaluate(low) == [] and tab.evaluate("document.documentElement.scrollWidth") <= width
            broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
            assert tab.evaluate(broken) == 0
            hover(tab)
            sort(tab)
            assert said == []
            assert [u for u in asked if not u.startswith("data:")] == [path.as_uri()]
        browser.close()


def hover(tab):
    """The image of a dot appears under the pointer."""
    line = tab.locator(".chart[data-points]").first
    line.scroll_into_view_if_needed()
    x, y, told = json.loads(line.get_attribute("data-points"))[0]
    box = line.locator("svg").bounding_box()
    tab.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    assert line.locator(".tip").inner_text().strip() == told
    drawing = tab.locator(".map svg").first
    drawing.scroll_into_view_if_needed()
    x, y, _ = json.loads(tab.locator(".map").first.get_attribute("data-points"))[0]
    box = drawing.bounding_box()
    assert tab.locator(".map .tip").first.is_hidden()
    tab.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    assert tab.locator(".map .tip").first.is_visible()
    assert "data:image" in tab.locator(".map .tip span").first.evaluate("e => getComputedStyle(e).backgroundImage")


def sort(tab):
    """Keys alone reach a heading, show where they are, and sort."""
    button = tab.locator(".matrix button").nth(1)
    button.focus()
    tab.keyboard.press("Tab")
    tab.keyboard.press("Shift+Tab")
    assert button.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    first = "[...document.querySelector('.matrix').rows].slice(1).map(r => r.cells[1].dataset.value)"
    for order in ("descending", "ascending"):
        tab.keyboard.press("Enter")
        assert tab.locator(".matrix th").nth(1).get_attribute("aria-sort") == order
        values = [float(x) for x in tab.evaluate(first) if x != "nan"]
        assert values == sorted(values, reverse=order == "descending") and len(values) > 2


def test_a_run_that_has_just_begun_says_so(tmp_path, capsys):
    folder = write(tmp_path / "new", tiny.config("rotation"))
    (folder / "metrics.jsonl").unlink()
    assert report.main([f"--workdir={folder}"]) == 0
    found = sections((folder / "report.html").read_text())
    assert "Nothing has been logged yet" in found["Training"]
    assert "Not evaluated yet" in found["All results"] and "Not evaluated on labels" in found["Summary"]
    assert "no checkpoint" in found["Views"] and "no checkpoint" in found["What the network finds similar"]
    assert "Differences between configs" not in found and "Differences" not in (folder / "report.html").read_text()
    assert report.main([f"--workdir={tmp_path / 'nowhere'}"]) == 2
    assert "There is no run" in capsys.readouterr().err


def test_a_run_without_labels_shows_all_but_what_needs_them(tmp_path):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(60):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / "images" / f"{i}.png")
    changes = {"data.source": f"folder:{tmp_path / 'images'}", "data.size": 8}
    ts = tiny.run("rotation", **colour(changes)).init()
    folder = write(tmp_path / "run", tiny.config("rotation", **colour(changes)), ts)
    report.report(str(folder), image=400)
    found = sections((folder / "report.html").read_text())
    assert "Confusion matrix (kNN)" not in found
    similar = found["What the network finds similar"]
    assert "nothing is marked" in similar and "✗" not in similar and similar.count("<svg") == 2
    shown = re.findall(r'<small title="(.*?)"', similar)
    assert len(shown) == 6 * 7
    for name, encoded in re.findall(r'title="(\d+.png)" width="64" src="data:image/png;base64,(.*?)"', similar):
        drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))
        np.testing.assert_array_equal(drawn, np.asarray(Image.open(tmp_path / "images" / name)))
    assert "There is no image 400" in found["Feature maps"]
    assert "turned back by" in found["What the pretext task looks like"]  # rotation's task needs no labels


def colour(changes):
    view = {"brightness": 0.0, "contrast": 0.0, "mean": (0.5,), "std": (0.25,)}
    return changes | {f"method.view.{k}": v for k, v in view.items()}


RUNS = [("simclr", 0, 0.5, 0.9), ("simclr", 1, 0.5, 0.8), ("byol", 0, 0.4, 0.7)]  # method, seed, untrained, pretrained


@pytest.fixture
def several(tmp_path):
    """Two seeds of a method and one of another, evaluated."""
    folders = []
    for method, seed, before, after in RUNS:
        found = {"knn/top1": after, "knn/top1_untrained": before, "knn/top1_pixels": 0.6}
        found |= {f"few_label/{n}/{of}": x for n in (1, 10) for of, x in (("pretrained", after), ("untrained", before))}
        folders.append(str(write(tmp_path / f"{method}{seed}", tiny.config(method, seed=seed), None, found)))
    return runs.read(folders)


@pytest.mark.fast
def test_several_runs_are_one_table_of_methods_with_means_over_seeds(several):
    table = summary.matrix(several)
    rows = re.findall(r"<tr.*?</tr>", table)
    names = [re.search(r"<t[dh][^>]*>(?:<button>)?(.*?)</", row)[1] for row in rows]
    assert names == ["run", "pixels (simclr)", "untrained (simclr)", "simclr (2 seeds)", "byol"]
    assert "<b>85.0 ± 7.1</b>" in rows[3] and '<td data-value="0.7">70.0</td>' in rows[4]
    assert "60.0" in rows[1] and "50.0" in rows[2] and "<b>" not in rows[1] + rows[2] + rows[4]


@pytest.mark.fast
def test_the_chart_of_few_labels_has_a_line_a_method_and_the_baselines_once(several):
    lines = curves._label_lines(several, "few_label")
    assert [name for name, _, _ in lines] == ["simclr", "untrained", "byol"]
    assert lines[0][2]["1"] == pytest.approx((85.0, 7.07), abs=0.01) and lines[2][2]["10"] == (70.0, 0.0)
    assert lines[0][1]["color"] != lines[2][1]["color"]
    assert curves.over_labels(several).count("<svg") == 1


def words_of(drawing):
    """The words of drawings, those of an axis in its order."""
    return [html.unescape(text) for text in re.findall(r"<text[^>]*>(.*?)</text>", drawing)]


@pytest.mark.fast
def test_bars_of_methods_are_sorted_above_the_baselines(several):
    for given in (several, several[::-1]):
        drawn = bars.others(given)
        assert drawn.count("<svg") == 1 and "Nearest neighbours: kNN accuracy" in drawn
        names = [text for text in words_of(drawn) if text in ("simclr", "byol", "untrained", "pixels")]
        assert names == ["simclr", "byol", "untrained", "pixels"]
        assert {"85.0", "70.0", "60.0"} <= set(words_of(drawn))
        assert all("currentColor" in text for text in re.findall(r"<text[^>]*>", drawn))  # legible on a dark page too


@pytest.mark.fast
def test_bars_of_a_run_are_what_has_no_chart_elsewhere(tmp_path):
    found = {"retrieval/map": 0.7, "retrieval/map_untrained": 0.4, "retrieval/recall@5": 0.9, "knn/top1": 0.8}
    (run,) = runs.read([str(write(tmp_path / "run", tiny.config("rotation"), None, found))])
    drawn = bars.others([run])
    assert drawn.count("<svg") == 1 and {"70.0", "40.0", "90.0", "pretrained"} <= set(words_of(drawn))
    assert "80.0" not in words_of(drawn)
    with pytest.raises(page.Absent):
        curves.over_labels([run])


@pytest.mark.fast
def test_a_run_without_accuracy_is_summed_up_by_what_was_measured(tmp_path):
    found = {"retrieval/map": 0.7, "retrieval/map_untrained": 0.4, "cluster/nmi": 0.5, "cluster/nmi_untrained": 0.6}
    (run,) = runs.read([str(write(tmp_path / "run", tiny.config("rotation"), None, found))])
    assert "70.0 %" in summary.one(run) and "helps with mean average precision (+30.0 points)" in summary.one(run)
    table = summary.matrix([run], 10.0)
    assert "<b>70.0</b>" in table and "chance" not in table  # chance is that of a class


@pytest.mark.fast
def test_methods_that_learn_with_few_labels_are_lines_of_their_classifier(several, tmp_path):
    folders = []
    for labels, weight, top1 in ((1, 1.0, 0.3), (10, 1.0, 0.6), (10, 0.0, 0.4)):
        changes = {"method.labels_per_class": labels, "method.weight": weight}
        folder = tmp_path / f"pseudo{labels}{weight:g}"
        config = tiny.config("pseudo_label", **changes)
        folders.append(str(write(folder, config, None, {"classifier/top1": top1, "classifier/top1_untrained": 0.1})))
    lines = {name: points for name, _, points in curves._label_lines([*several, *runs.read(folders)], "few_label")}
    assert lines["pseudo_label, classifier"] == {"1": (30.0, 0.0), "10": (60.0, 0.0)}
    assert lines["supervised, few labels"] == {"10": (40.0, 0.0)} and "simclr" in lines


@pytest.mark.fast
def test_losses_of_several_methods_have_charts_of_their_own(several):
    assert curves.over_time(several, ["loss"]).count("<svg") == 2  # seeds of a method share one
    assert curves.over_time(several[:2], ["loss"]).count("<svg") == 1


@pytest.mark.fast
@pytest.mark.parametrize(
    ("after", "words"),
    [
        ({"knn/top1": 0.9, "few_label/1": 0.9}, "Pretraining helps: every number is above the untrained backbone."),
        ({"knn/top1": 0.5, "few_label/1": 0.51}, "no number is clearly above the untrained backbone"),
        (
            {"knn/top1": 0.9, "few_label/1": 0.5},
            "helps with kNN accuracy (+40.0 points), but not with 1 label per class (+0.0 points)",
        ),
        ({"knn/top1": 0.55, "few_label/1": 0.9}, "Raw pixels are better with kNN accuracy."),
    ],
)
def test_the_verdict_on_a_run(tmp_path, after, words):
    found = {"knn/top1_pixels": 0.6, "knn/top1": after["knn/top1"], "knn/top1_untrained": 0.5}
    found |= {"few_label/1/untrained": 0.5, "few_label/1/pretrained": after["few_label/1"]}
    (run,) = runs.read([str(write(tmp_path / "run", tiny.config("rotation"), None, found))])
    assert words in html.unescape(summary.one(run))


@pytest.mark.fast
@pytest.mark.parametrize(("test_classes", "words"), [((0, 1), "✗ another"), ((2, 3), "The test classes are new")])
def test_neighbours_are_marked_where_one_can_be_right(test_classes, words):
    rng = np.random.default_rng(0)
    names = np.array([f"folder/{i}.png" for i in range(12)])
    images, features = rng.integers(0, 256, (12, 8, 8, 1)), rng.normal(size=(12, 4))
    labels, bank_labels = np.repeat(test_classes, 6), np.repeat((0, 1), 6)
    classes = ("a", "b", "a name that is far too long", "d")
    s = neighbours.Sample(features, images, bank_labels, -features, images, labels, names, names, classes, "Some.")
    drawn = neighbours.nearest(s)
    assert words in drawn and ('class="bad"' in drawn) == (test_classes == (0, 1))
    assert 'style="max-width:64px">5.png</small>' in drawn  # nothing widens the table
    if test_classes == (2, 3):
        with pytest.raises(page.Absent):
            neighbours.confusion(s, 3, 0.1)


@pytest.mark.fast
def test_confusions_are_wrong_answers_alone():
    matrix = np.array([[8, 2, 0], [0, 9, 0], [0, 0, 5]])
    found = neighbours._worst(matrix, matrix / matrix.sum(1, keepdims=True), ("a", "b", "c"))
    assert re.findall(r"<td>(.*?)</td>", found) == ["a", "b", "20.0 %", "2"]
    assert "No image was taken for another class" in neighbours._worst(np.eye(3), np.eye(3), ("a", "b", "c"))


@pytest.mark.fast
def test_long_names_of_classes_leave_room_for_the_drawing(recwarn):
    found = neighbours._heat(np.eye(2), ("short", "x" * 250))
    assert "short" in found and f"{'x' * 29}\N{HORIZONTAL ELLIPSIS}" in found and "x" * 30 not in found
    assert not recwarn.list


@pytest.mark.fast
def test_results_of_earlier_versions_are_told_by_their_names():
    found = {(tables.group_of(r), tables.row_of(r), r.of): r for r in numbers(RESULTS)}
    assert len(found) == 18  # no spread, no record and no baseline is a result of its own
    assert found["few_label", "1", "pixels"].spread == 0.1 and found["few_label", "1", "pixels"].kind == "share"
    assert found["few_shot", "5way_1shot/prototypes", "pretrained"].spread == 0.02
    assert found["label_curve", "1/top1", "untrained"].spread == 0.03
    assert found["pretext", "psnr", "pretrained"].chance == 12.0
    assert found["pretext", "psnr", "pretrained"].kind == found["health", "rankme", "pretrained"].kind == "value"
    assert found["fine_tune", "10/top1", "supervised"].value == 0.5


@pytest.mark.fast
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("loss", "loss"),
        ("reconstruction_loss", "loss"),
        ("knn/top1", "accuracy"),
        ("rotation_accuracy", "accuracy"),
        ("feature_std", "health"),
        ("health/uniformity", "health"),
        ("images_per_second", "throughput"),
        ("lr/default", "other"),
    ],
)
def test_numbers_find_their_section(name, wanted):
    assert curves.kind(name) == wanted


@pytest.mark.fast
def test_damaged_results_are_named_and_left_out(tmp_path, caplog):
    folder = write(tmp_path / "run", tiny.config("rotation"))
    (folder / "results.json").write_text('{"knn/to')
    (run,) = runs.read([str(folder)])
    assert run.results == {} and "results.json" in caplog.text


def test_maps_of_a_stage_are_those_that_features_are_the_mean_of():
    run = tiny.run("rotation")
    ts = tiny.fresh(run)
    images = jax.random.normal(jax.random.key(0), (1, 8, 8, 1))
    for stage, maps in network.stage_outputs(run.method, ts.params, ts.state, images).items():
        wanted = tiny.features(run.method, ts.params, ts.state, images, stage)[0]
        np.testing.assert_allclose(maps.mean((0, 1)), wanted, rtol=1e-5, atol=1e-6)


def test_maps_of_a_transformer_leave_its_token_out(monkeypatch):
    monkeypatch.setitem(SIZES, "vit_test", (16, 4, 2))
    module = ViT("vit_test", 4)
    images = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
    params = module.init(jax.random.key(1), images, train=False)["params"]
    method = network.Method(module)
    maps = network.stage_outputs(method, {"backbone": params}, {"stats": {}}, images)
    assert {stage: m.shape for stage, m in maps.items()} == {s: (2, 2, 16) for s in (1, 2, 3, 4)}
    assert np.abs(maps[1] - maps[2]).max() > 0


def _painters():
    return [name for name in build.names() if build.find(name).pictures is not Method.pictures]


@pytest.mark.parametrize("name", _painters())
def test_every_task_has_its_pictures_on_the_page(name):
    """As a report takes them: arrays of a checkpoint, on the host."""
    run = tiny.run(name)
    ts = jax.device_get(tiny.fresh(run))
    shown = network.pictures(network.Network(run, 3, ts.params, ts.state))
    assert shown.count("<h3>") >= 1 and shown.count("<img") >= 6
    assert network.filters(network.Network(run, 3, ts.params, ts.state)).count("<img") > 0


PARTS = {
    "dann": ["source: image", "source: view", "target: image", "target: view"],
    "protonet": ["image", "view"],
    "shuffle_and_learn": ["image", "view"],
}


@pytest.mark.parametrize("name", PARTS)
def test_views_of_domains_episodes_and_clips(name):
    run = tiny.run(name)
    shown = network.views(network.Network(run, 3, None, None))
    assert re.findall(r"<span[^>]*>(.*?)</span>", shown) == PARTS[name]
    entries = 6 if name == "dann" else 10  # of an episode or of clips, whose first images belong together
    assert shown.count("<img") == entries * len(PARTS[name])


@pytest.mark.fast
def test_small_images_are_kept_exactly_and_large_ones_made_smaller():
    small = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    assert page.data_uri(small / 255.0).startswith("data:image/png")
    large = page.data_uri(np.zeros((500, 400, 1)))
    assert large.startswith("data:image/jpeg") and len(large) < 5000
