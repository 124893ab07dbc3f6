"""The built-in scenes: pictures drawn in code with captions and exact ground truth, for tests and the quickstart."""

from .records import (
    SCENE_CATEGORIES,
    SCENE_SPLITS,
    SCENE_WORDS,
    SEEN_STYLES,
    STYLES,
    UNSEEN_STYLES,
    Scene,
    draw_scene,
    scene_index,
    scene_labels,
    scene_records,
)

__all__ = [
    "SCENE_CATEGORIES",
    "SCENE_SPLITS",
    "SCENE_WORDS",
    "SEEN_STYLES",
    "STYLES",
    "UNSEEN_STYLES",
    "Scene",
    "draw_scene",
    "scene_index",
    "scene_labels",
    "scene_records",
]
