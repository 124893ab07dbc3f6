import json
import re
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from seggen_hf.pictures.report import line_chart, thumbnail
from seggen_hf.provenance import join_versions
from seggen_hf.runs.report import list_classes, list_scores, write_report
from seggen_hf.runs.results import scores_by_arm
from seggen_hf.runs.verdict import judge, write_verdict
from seggen_hf.tasks import TASKS


def by_seed(scores):
    """`{seed: score}` of scores in the order of their seeds."""
    return dict(enumerate(scores))


@pytest.mark.parametrize(
    ("real", "synthetic", "verdict"),
    [
        ([0.40, 0.41, 0.40], [0.44, 0.45, 0.44], "gain"),
        ([0.40, 0.41, 0.40], [0.36, 0.37, 0.37], "loss"),
        ([0.40, 0.44], [0.43, 0.45], "within range"),
        ([0.40, 0.40], [0.40, 0.40], "within range"),
        ([0.40, 0.40, 0.40], [0.4004, 0.4004, 0.4004], "within range"),
        ([0.40, 0.41], [0.50, 0.51], "beyond range"),
        ([0.40], [0.50], "one seed"),
        ([0.40, 0.41], [0.50], "one seed"),
    ],
)
def test_a_difference_counts_only_beyond_the_range_of_the_seeds(real, synthetic, verdict):
    assert judge(by_seed(real), by_seed(synthetic)) == verdict


def test_seeds_are_compared_in_pairs():
    assert judge({0: 0.4, 1: 0.9}, {0: 0.5, 2: 0.1}) == "one seed"
    sentence = write_verdict({"real": {"test": {0: 0.4, 1: 0.9}}, "imgsyn": {"test": {0: 0.5}}})
    assert "from 40.0 to 50.0 (+10.0 points, one seed in common)" in sentence
    assert "2 of real, 1 of imgsyn" in sentence


def test_the_sentence_names_gain_and_loss_by_split():
    scores = {
        "real": {"test": by_seed([0.40, 0.41, 0.405]), "unseen": by_seed([0.25, 0.25, 0.25])},
        "synthetic": {"test": by_seed([0.36, 0.37, 0.365]), "unseen": by_seed([0.30, 0.31, 0.305])},
    }
    sentence = write_verdict(scores)
    assert "lowered mIoU on test from 40.5 to 36.5 (-4.0 points, more than the 1.0 between seeds: it hurt)" in sentence
    assert (
        "raised mIoU on unseen from 25.0 to 30.5 (+5.5 points, more than the 1.0 between seeds: it helped)" in sentence
    )
    assert sentence.count(". ") == 0
    assert sentence.endswith("; seeds of the segmenter: 3 of each arm; one pair of generators.")


def test_two_seeds_claim_no_help_and_no_harm():
    sentence = write_verdict({"real": {"test": by_seed([0.40, 0.41])}, "synthetic": {"test": by_seed([0.50, 0.51])}})
    assert "larger than the 1.0 range between seeds; 2 seeds cannot tell chance" in sentence
    assert "helped" not in sentence and "hurt" not in sentence


def test_each_kind_has_its_clause_where_there_is_no_joint_arm():
    scores = {"real": {"test": {0: 0.4}}, "imgsyn": {"test": {0: 0.5}}, "masksyn": {"test": {0: 0.3}}}
    sentence = write_verdict(scores)
    assert "ImgSyn raised mIoU on test from 40.0 to 50.0" in sentence and "; MaskSyn lowered mIoU" in sentence
    assert "MaskSyn" not in write_verdict(scores | {"synthetic": {"test": {0: 0.5}}})


def test_controls_without_a_generator_are_told_beside_it():
    """What they reach, and, where an arm has both, what synthetic data brings on top."""
    scores = {
        "real": {"test": by_seed([0.40, 0.41, 0.405])},
        "copy-paste": {"test": by_seed([0.45, 0.46, 0.455])},
        "self-training": {"test": by_seed([0.42, 0.42, 0.42])},
        "synthetic": {"test": by_seed([0.47, 0.48, 0.475])},
    }
    told = write_verdict(scores)
    for name, score in (("copy-paste", "45.5"), ("self-training", "42.0")):
        assert f". Without a generator, {name} alone reaches {score} on test." in told
    both = scores | {"synthetic-copy-paste": {"test": by_seed([0.50, 0.51, 0.505])}}
    assert "On top of copy-paste, synthetic data raised mIoU on test from 45.5 to 50.5 (+5.0 points" in write_verdict(
        both
    )
    del both["synthetic"]
    assert write_verdict(both).startswith("Synthetic data and copy-paste raised mIoU on test from 40.5 to 50.5 (+10.0")
    both |= {"imgsyn-copy-paste": both["synthetic-copy-paste"], "synthetic-copy-paste": {"unseen": {0: 0.5}}}
    assert "On top of copy-paste, synthetic data raised mIoU on test from 45.5 to 50.5" in write_verdict(both)


def test_the_sentence_claims_nothing_within_the_spread():
    sentence = write_verdict({"real": {"test": by_seed([0.40, 0.44])}, "synthetic": {"test": by_seed([0.43, 0.45])}})
    assert "no effect shown" in sentence and "helped" not in sentence


def test_the_sentence_says_what_one_seed_cannot_tell():
    sentence = write_verdict({"real": {"test": {0: 0.40}}, "synthetic": {"test": {0: 0.50}}})
    assert "no statement about chance" in sentence and "helped" not in sentence
    assert "raised mIoU on test from 40.0 to 50.0 (+10.0 points)" in sentence


def test_the_sentence_does_not_speak_of_arms_that_are_absent():
    assert "nothing can be said" in write_verdict({"synthetic": {"test": {0: 0.5}}})
    assert "nothing can be said" in write_verdict({"real": {"test": {0: 0.5}}})
    assert write_verdict({"real": {"test": {0: 0.4}}, "masksyn": {"test": {0: 0.3}}}).startswith("MaskSyn lowered")


def test_the_sentence_names_the_metric_of_the_task():
    for real, synthetic, told in (
        ([0.40, 0.41, 0.40], [0.44, 0.45, 0.44], "raised mask AP on test from 40.3 to 44.3 (+4.0 points"),
        ([0.40, 0.41, 0.40], [0.40, 0.41, 0.40], "left mask AP on test at 40.3"),
        ([0.40], [0.30], "lowered mask AP on test from 40.0 to 30.0"),
    ):
        scores = {"real": {"test": by_seed(real)}, "synthetic": {"test": by_seed(synthetic)}}
        sentence = write_verdict(scores, "mask AP")
        assert told in sentence and "mIoU" not in sentence


def make_row(arm, seed, values):
    labels = dict(zip("abc", values, strict=True))
    known = [value for value in values if value is not None]
    row = {"arm": arm, "seed": seed, "split": "test", "num_images": 4, "pixel_accuracy": 0.5, "per_label": labels}
    return row | {"mIoU": sum(known) / len(known)}


def test_scores_are_gathered_over_seeds_and_absent_classes_stay_absent():
    rows = [make_row("real", 0, [0.2, 0.4, None]), make_row("real", 1, [0.4, 0.4, None])]
    rows += [make_row("synthetic", 0, [0.6, 0.4, None]), make_row("synthetic", 1, [0.6, 0.4, None])]
    real, synthetic = list_scores(rows)[0]["rows"]
    assert real["mean"] == pytest.approx(0.35) and real["range"] == pytest.approx(0.1) and real["difference"] is None
    assert synthetic["difference"] == pytest.approx(0.15)
    a, _, c = list_classes(rows)[0]["rows"]
    assert a["difference"] == pytest.approx(0.3) and a["ranges"]["real"] == pytest.approx(0.2)
    assert c["means"] == {"real": None, "synthetic": None} and c["difference"] is None


def make_task_row(task, arm, seed, score, classes, **more):
    """A row of another task than semantic; further scores that `more` lacks are not known."""
    row = {"arm": arm, "seed": seed, "split": "test", "task": task, "num_images": 4, "protocol": f"{task} protocol."}
    row |= dict.fromkeys(TASKS[task].more) | {TASKS[task].metric: score, "per_label": classes}
    return row | {"folder": f"segmenter-{arm}/seed-{seed}"} | more


def panoptic_rows():
    classes = {"sky": 0.5, "cow": 0.3, "car": None}
    return [
        make_task_row("panoptic", "real", 0, 0.40, classes, SQ=0.8, PQ_things=0.25, mIoU=0.61),
        make_task_row("panoptic", "real", 1, 0.44, classes | {"cow": 0.4}, SQ=0.7, PQ_things=0.35, mIoU=0.61),
        make_task_row("panoptic", "synthetic", 0, 0.50, classes | {"cow": 0.6}, SQ=0.9, AP=0.125),
        make_task_row("panoptic", "synthetic", 1, 0.52, classes | {"cow": 0.6}, SQ=0.9),
    ]


def instance_rows():
    return [
        make_task_row("instance", "real", 0, 0.20, {"cow": 0.2, "car": None}, AP50=0.4, AP_small=0.05),
        make_task_row("instance", "real", 1, None, {"cow": None, "car": None}),
        make_task_row("instance", "synthetic", 0, None, {"cow": None, "car": None}),
        make_task_row("instance", "synthetic", 1, None, {"cow": None, "car": None}),
    ]


def test_tables_are_about_the_headline_score_of_the_task():
    rows = panoptic_rows()
    assert scores_by_arm(rows)["real"] == {"test": {0: 0.40, 1: 0.44}}
    real, synthetic = list_scores(rows)[0]["rows"]
    assert real["mean"] == pytest.approx(0.42) and synthetic["difference"] == pytest.approx(0.09)
    assert tuple(real["more"]) == TASKS["panoptic"].more
    assert real["more"]["SQ"] == pytest.approx(0.75) and real["more"]["AP"] is None
    assert synthetic["more"]["AP"] == 0.125  # of the seed that has it
    _, cow, car = list_classes(rows)[0]["rows"]
    assert cow["difference"] == pytest.approx(0.25) and car["means"]["real"] is None


def test_an_arm_without_a_score_stays_in_the_table():
    real, synthetic = list_scores(instance_rows())[0]["rows"]
    assert real["mean"] == 0.2 and real["range"] is None and real["seeds"] == {0: 0.2, 1: None}
    assert synthetic["mean"] is None and synthetic["difference"] is None and set(synthetic["more"].values()) == {None}


@pytest.fixture
def report_of(tiny_run, tmp_path):
    """Writes the report of a finished run whose scores are `rows`, and returns it as Markdown and HTML."""

    def write(rows):
        run = shutil.copytree(tiny_run, tmp_path / rows[0]["task"])
        results = json.loads((run / "results.json").read_text())
        verdict = write_verdict(scores_by_arm(rows), TASKS[rows[0]["task"]].metric_name)
        (run / "results.json").write_text(json.dumps(results | {"scores": rows, "verdict": verdict}))
        for path in run.glob("predictions/test/*-segmentation_map.png"):
            name = path.name.replace("segmentation_map", "segments")
            Image.new("RGB", (64, 64), (1, 2, 3)).save(path.with_name(name))
            path.unlink()
        for path in run.glob("segmenter-*/seed-0/predictions/test/*.png"):
            Image.new("RGB", (400, 300), (4, 5, 6)).save(path)
        write_report(run)
        return (run / "report.md").read_text(), (run / "report.html").read_text(), run

    return write


@pytest.mark.slow
def test_the_report_of_a_panoptic_run(report_of):
    markdown, html, run = report_of(panoptic_rows())
    for text in (markdown, html):
        assert "Scores are PQ in %" in text and "PQ per class on test" in text and "IoU per class" not in text
        assert "Synthetic data raised PQ on test from 42.0 to 51.0 (+9.0 points" in text
        assert "shades of its color" in text and "pixel" not in text.partition("How it was measured")[0]
    lines = markdown.splitlines()
    titles = "arm, PQ, against real, between seeds, of each (seed), SQ, RQ, PQ things, PQ stuff, AP, AP50, mIoU"
    head = lines.index(f"| {titles.replace(', ', ' | ')} |")
    assert lines[head + 1].count("---") == 12
    assert lines[head + 2] == (
        "| real: real records only | 42.0 | – | 4.0 | 40.0 (0), 44.0 (1) | 75.0 | – | 30.0 | – | – | – | 61.0 |"
    )
    assert "| cow | 35.0 (range 10.0) | 60.0 (range 0.0) | +25.0 |" in lines and "| car | – | – | – |" in lines
    for title in ("<th>PQ</th>", "<th>PQ things</th>", "<th>AP50</th>", "<th>mIoU</th>"):
        assert title in html
    shown = np.array(Image.open(run / "pictures" / "test-0-truth.png"))
    assert (shown == (1, 2, 3)).all()
    assert (np.array(Image.open(run / "pictures" / "test-0-real.png")) == (4, 5, 6)).all()


@pytest.mark.slow
def test_the_report_of_an_instance_run(report_of):
    markdown, html, _ = report_of(instance_rows())
    for text in (markdown, html):
        assert "Scores are mask AP in %" in text and "Mask AP per class on test" in text
        assert "nothing can be said" in text and "Stuff is left out" in text and "boundary AP" in text
    assert "| real: real records only | 20.0 | – | – | 20.0 (0), – (1) | 40.0 | – | 5.0 | – | – | – |" in markdown
    assert "| – (0), – (1) |" in markdown and "holds no thing of the class" in html
    assert "No synthetic arm has been scored" in markdown


def test_the_report_shows_pictures_sentence_and_both_arms(tiny_run):
    html = (tiny_run / "report.html").read_text()
    markdown = (tiny_run / "report.md").read_text()
    assert html.count("data:image/png;base64,") >= 3 * 8 + 2 * 8 + 4 * 8
    for text in (html, markdown):
        assert "this is one seed, so no statement about chance is possible." in text
        assert "real" in text and "synthetic" in text and "mountain" in text and "segmenter-real/seed-0" in text
    assert html.index("ImgSyn") < html.index("Predictions on test") < html.index("Scores on test")
    assert html.count("<svg") == 3
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", markdown):
        assert (tiny_run / path).is_file()


def test_the_html_report_asks_the_network_for_nothing(tiny_run):
    html = (tiny_run / "report.html").read_text()
    links = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", html)
    assert links and all(link.startswith("data:") for link in links)
    assert "<script" not in html and "<link" not in html


@pytest.mark.slow
def test_the_user_s_text_is_escaped(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["data"]["dataset_name"] = recipe["caption"]["caption_prompt"] = "<script>alert(1)|[x](http://evil)"
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    write_report(run)
    assert "<script>" not in (run / "report.html").read_text()
    assert not re.search(r"(?<!\\)\]\(http://evil", (run / "report.md").read_text())


def test_a_report_needs_a_run_folder(tmp_path):
    with pytest.raises(ValueError, match="no recipe.yaml"):
        write_report(tmp_path)


def test_charts_leave_out_what_is_not_finite():
    svg = line_chart("loss <b>", {"a": [(0, 1.0), (1, float("nan")), (2, 0.5)], "b": [], "c & d": [(0, 2.0)]})
    assert svg.count("<polyline") == 2 and "nan" not in svg and "<b>" not in svg and "c &amp; d" in svg
    assert "nothing was logged" in line_chart("empty", {})


@pytest.mark.parametrize(
    ("shape", "size"), [((64, 64), (192, 192)), ((96, 128), (256, 192)), ((768, 1024), (240, 180))]
)
def test_thumbnails_keep_the_aspect_and_maps_their_colors(shape, size):
    pixels = np.zeros((*shape, 3), np.uint8)
    pixels[: shape[0] // 2] = (255, 0, 7)
    image = thumbnail(pixels, smooth=False)
    assert image.size == size and {color for _, color in image.getcolors()} == {(0, 0, 0), (255, 0, 7)}


def test_versions_of_parts_made_apart_are_all_named():
    assert join_versions([{"torch": "2.1"}, {"torch": "2.2"}, {"torch": "2.1"}]) == {"torch": "2.1, 2.2"}
