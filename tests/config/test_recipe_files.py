"""Recipes as people write them: one row a case, and the line that the user sees."""

import dataclasses
import re

import pytest

from seggen_hf.config import load_recipe
from seggen_hf.config.recipe import SECTIONS
from seggen_hf.config.values import AT_LEAST_ONE, AT_LEAST_TWO, PART, POSITIVE, SHARE, SIDE

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
# Recipes that are refused: (text, what the line says)
RECIPES = {
    "section-twice": (
        "segmenter: {learning_rate: 1.0e-5}\nsegmenter: {max_train_steps: 3}",
        "segmenter is given twice",
    ),
    "setting-twice": ("data: {height: 64, height: 128}", "height is given twice"),
    "bomb": (BOMB, "its aliases make more than"),
    "holds-itself": ("data: &a {height: *a}", "its aliases make more than"),
    "not-utf-8": (b"name: \xff\xfe", "is not YAML"),
    "nan": ("segmenter: {weight_decay: .nan}", "weight_decay is nan; it must be a finite number"),
    "infinite": ("segmenter: {lr_power: .inf}", "lr_power is inf; it must be a finite number"),
    "guidance-nan": ("synthesis: {mask2img_guidance: .nan}", "mask2img_guidance is nan"),
    "weight-decay-negative": ("segmenter: {weight_decay: -0.1}", "weight_decay is -0.1; it must be 0 or positive"),
    "lr-power-negative": ("segmenter: {lr_power: -1}", "lr_power is -1.0; it must be 0 or positive"),
    "guidance-negative": ("synthesis: {text2mask_guidance: -3}", "text2mask_guidance is -3.0"),
    "clipping-negative": ("text2mask: {max_grad_norm: -1}", "max_grad_norm is -1.0"),
    "checkpoints-negative": ("text2mask: {checkpointing_steps: -5}", "checkpointing_steps is -5"),
    "jitter-negative": ("segmenter: {color_jitter: -0.5}", "color_jitter"),
    "zoom-nan": ("mask2img: {max_crop_zoom: .nan}", "max_crop_zoom is nan"),
    "seed-huge": ("evaluation: {seeds: [99999999999999]}", "seeds is .*at most 4294967295"),
    "seed-negative": ("text2mask: {seed: -1}", "seed is -1"),
    "fraction-of-a-step": ("text2mask: {max_train_steps: '3.7'}", "must be a whole number"),
    "tiles-infinite": ("data: {tiles: .inf}", "must be a whole number"),
}


@pytest.mark.parametrize("case", RECIPES)
def test_recipes_are_refused(tmp_path, case):
    text, line = RECIPES[case]
    file = tmp_path / "mine.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=line):
        load_recipe(file)


def test_a_quoted_number_is_not_rounded_and_a_byte_order_mark_is_read_over(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xef\xbb\xbftext2mask: {seed: '4294967291', learning_rate: '1e-5'}\n")
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert recipe.text2mask.seed == 4_294_967_291 and recipe.text2mask.learning_rate == 1e-5


OUTSIDE = {POSITIVE: 0, AT_LEAST_ONE: 0, AT_LEAST_TWO: 1, SHARE: 1.5, PART: 1.0, SIDE: 20}
RULED = [
    (section, f.name, f.metadata)
    for section, cls in SECTIONS.items()
    for f in dataclasses.fields(cls)
    if f.metadata["within"] or f.metadata["one_of"]
]


@pytest.mark.parametrize(("section", "name", "metadata"), RULED, ids=[f"{s}.{n}" for s, n, _ in RULED])
def test_every_rule_of_a_field_is_kept(section, name, metadata):
    within = metadata["within"]
    value, rule = (OUTSIDE[within], within.rule) if within else ("nonsense", "one of")
    with pytest.raises(ValueError, match=re.escape(f"{name} is {value!r}; it must be {rule}")):
        SECTIONS[section](**{name: value})
