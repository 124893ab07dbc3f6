import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from seggen_hf.data.scenes.records import SCENE_CATEGORIES, draw_scene

NAMES = [category["name"] for category in SCENE_CATEGORIES]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(Path(__file__).parents[2] / "benchmarks" / "measure_base.py")


def test_named_things_are_those_of_the_scene(script):
    caption = "a beach and mountains with two blue boats, an orange tree and a lamp, in snow"
    assert script.named_things(caption) == Counter(boat=2, tree=1, lamp=1)
    assert script.named_things("a lake, in fog") == Counter()
    for index in range(100):
        scene = draw_scene(0, index)
        large = [i for i in scene.segments_info if i["isthing"] and i["area"] >= 6]
        if len({(scene.colors[i["id"]], i["category_id"]) for i in large}) <= 4:  # captions name four groups
            assert script.named_things(scene.caption) == Counter(NAMES[i["category_id"]] for i in large)


def test_the_share_shown_counts_each_named_thing_once(script):
    captions = ["a lake with two red boats and a pine tree", "a field with a brown cow"]
    assert script.share_shown(captions, [Counter(boat=2, tree=1), Counter(cow=1)]) == 1
    assert script.share_shown(captions, [Counter(boat=1, car=7), Counter(cow=3)]) == 2 / 4


def test_maps_show_their_scenes_things_unless_they_touch(script):
    scenes = [draw_scene(0, index) for index in range(60)]
    captions = [scene.caption for scene in scenes]
    shown = [script.things_of_map(scene.segmentation_map) for scene in scenes]
    assert script.share_shown(captions, shown) > 0.9
    others = [draw_scene(9, index).segmentation_map for index in range(60)]
    assert script.share_shown(captions, [script.things_of_map(m) for m in others]) < 0.6


def test_kid_is_about_zero_for_one_distribution_and_grows_with_the_distance(script):
    rng = np.random.default_rng(0)
    draws = [rng.normal(size=(400, 16)) for _ in range(2)]
    same, near, far = (script.kid(draws[0], draws[1] + shift) for shift in (0.0, 0.3, 1.0))
    assert abs(same) < 0.05 and same < near < far
    # The unbiased estimate by its definition, over all pairs.
    a, b = draws[0][:5], draws[1][:6]
    k = lambda x, y: (x @ y / 16 + 1) ** 3  # noqa: E731
    pairs = [np.mean([k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    expected = sum(pairs) - 2 * np.mean([k(x, y) for x in a for y in b])
    np.testing.assert_allclose(script.kid(a, b), expected)


@pytest.mark.slow
def test_a_base_is_measured_and_shown(script, miniature_dir, tmp_path, capsys):
    script.main([
        "--base", str(miniature_dir), "--out", str(tmp_path), "--number", "4", "--judge_steps", "1",
        "--judge_scenes", "16", "--prior_steps", "2",
        "--set", "text2mask.max_train_steps=1", "--set", "mask2img.max_train_steps=1",
        "--set", "synthesis.text2mask_steps=1", "--set", "synthesis.mask2img_steps=1",
        "--set", "data.max_train_records=4", "--set", "mask2img.num_validation_images=1",
        "--set", "text2mask.num_validation_images=1",
    ])  # fmt: skip
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (tmp_path / "figures.json").read_text().strip() in capsys.readouterr().out
    assert set(figures) == {"rendered", "prior", "psnr_by_noise", "mask2img", "text2mask", "masksyn"}
    assert 0.9 < figures["rendered"]["share_shown_by_maps"] <= 1 and 0 <= figures["text2mask"]["void"] <= 1
    assert (tmp_path / "grid.png").is_file()
    found = figures["psnr_by_noise"]
    assert list(found) == [f"{snr:g}" for snr in script.SNRS]
    assert all(np.isfinite([row["prediction"], row["input"]]).all() for row in found.values())
