"""The page: each step of the loop is a button, and nothing a user types is shown as anything but text."""

import secrets
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr
import numpy as np
import PIL.Image

from ..synthesis.shards import KEEP, REJECT
from .decisions import Decisions
from .drawing import Drawing
from .models import DemoModels
from .painting import magnification, magnify

MAX_CAPTION = 500  # characters; the text encoders read 77 tokens
MAX_STEPS = 200  # denoising steps a visitor may ask for (the paper's)
MAX_SEED = 2**32 - 1  # PyTorch's generator on the CPU has 32 bits
MAX_RADIUS = 64  # pixels of the map
KEPT_UNDOS = 30
VOID = "void"
CSS = """
.seggen-legend { list-style: none; columns: 2; margin: 0; padding: 0; }
.seggen-swatch { display: inline-block; width: 1em; height: 1em; margin-right: .4em; border: 1px solid #888;
  vertical-align: -.1em; }
"""
NOTE = """# SegGen: a caption becomes a labelled image
Draw a map from a caption, repaint what is wrong with it, paint the image, and see what the segmenter makes of it.
Keep what is good: kept samples are training data.
"""


@dataclass(frozen=True)
class Sample:
    """What one visitor has in front of them; each step makes a new one.

    `drawing` is the map, `undo` what it was before; `caption` and `seed` are those that drew the map, and `image` fits
    the map or is None. `decode` holds the scores of the map as it was drawn.
    """

    caption: str = ""
    seed: int = 0
    drawing: Drawing | None = None
    decode: dict = field(default_factory=dict)
    undo: tuple[Drawing, ...] = ()
    image: PIL.Image.Image | None = None
    sample_id: str = ""

    @property
    def repainted(self) -> bool:
        return bool(self.undo)


def build_page(models: DemoModels, decisions: Decisions, caption: str = "") -> gr.Blocks:
    """The Gradio app over `models`; what visitors decide goes to `decisions`, and `caption` is there to begin with."""
    steps = Steps(models, decisions)
    config, codec = models.config, models.codec
    names = [*codec.id2label.values(), VOID]

    # Nothing is an endpoint of its own: what a page does not offer cannot be called from elsewhere by name.
    own: dict[str, Any] = {"api_visibility": "private"}
    work = own | {"concurrency_id": "models", "concurrency_limit": 1}  # one drawing at a time, the others wait
    with gr.Blocks(title="SegGen", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(NOTE)
        sample = gr.State(Sample(), time_to_live=3600)
        with gr.Row():
            with gr.Column():
                text = gr.Textbox(caption, label="Caption", max_length=MAX_CAPTION, lines=3, elem_id="caption")
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, elem_id="seed")
                new_seed = gr.Checkbox(True, label="New seed for each map", elem_id="new-seed")
                map_steps = _slider("Denoising steps of the map", config.text2mask_steps)
                image_steps = _slider("Denoising steps of the image", config.mask2img_steps)
                draw = gr.Button("Draw map", variant="primary", elem_id="draw")
            with gr.Column():
                map_view = _picture("Map: click to repaint", "map")
                legend_view = gr.HTML(elem_id="legend")
                label = gr.Dropdown(names, value=names[0], label="Repaint as", filterable=True, elem_id="label")
                with gr.Row():
                    tool = gr.Radio(["region", "disc"], value="region", label="A click paints a", elem_id="tool")
                    radius = gr.Slider(0, MAX_RADIUS, value=3, step=1, label="Disc radius")
                with gr.Row():
                    undo = gr.Button("Undo", elem_id="undo")
                    paint = gr.Button("Paint image", variant="primary", elem_id="paint")
            with gr.Column():
                image_view = _picture("Image", "image")
                answer_view = _picture("What the segmenter sees", "answer")
                verdict = gr.HTML(elem_id="verdict")  # agreement, and a legend
                with gr.Row():
                    keep = gr.Button("Keep", elem_id="keep")
                    reject = gr.Button("Reject", elem_id="reject")
                status = gr.HTML(elem_id="status")

        map_parts = [sample, map_view, legend_view]
        image_parts = [image_view, answer_view, verdict, status]
        draw.click(
            steps.draw, [text, seed, new_seed, map_steps], [*map_parts, seed, *image_parts], **work,
            show_progress_on=map_view,
        )  # fmt: skip
        map_view.select(steps.repaint, [sample, label, tool, radius], [*map_parts, *image_parts], **own)
        undo.click(steps.undo, [sample], [*map_parts, *image_parts], **own)
        paint.click(steps.paint, [sample, image_steps], [sample, *image_parts], **work, show_progress_on=image_view)
        for button, decision in ((keep, KEEP), (reject, REJECT)):
            button.click(steps.decide(decision), [sample], [status], **own, concurrency_limit=1)
    return page


class Steps:
    """What the buttons do. Arguments come from the net: all of them are checked here."""

    def __init__(self, models: DemoModels, decisions: Decisions):
        self.models, self.decisions = models, decisions
        self.ids = {name: id for id, name in models.codec.id2label.items()} | {VOID: models.codec.ignore_index}

    def draw(self, caption: str, seed: float | None, new_seed: bool, steps: float):
        caption = " ".join(str(caption or "").split())
        if not caption:
            raise gr.Error("Write a caption first.", print_exception=False)
        if len(caption) > MAX_CAPTION:
            raise gr.Error(f"The caption is longer than {MAX_CAPTION} characters.", print_exception=False)
        seed = secrets.randbelow(MAX_SEED + 1) if new_seed else _whole("seed", seed, 0, MAX_SEED)
        drawn, decode = self.models.draw_map(caption, seed, _whole("number of steps", steps, 1, MAX_STEPS))
        sample = Sample(caption, seed, drawn, decode)
        return *self._show_map(sample), seed, *_no_image()

    def repaint(self, sample: Sample, label: str, tool: str, radius: float, event: gr.SelectData):
        if sample.drawing is None:
            raise gr.Error("Draw a map first.", print_exception=False)
        if label not in self.ids:
            raise gr.Error("There is no such label.", print_exception=False)
        drawing = sample.drawing
        height, width = drawing.ids.shape
        factor = magnification(height, width)
        column = _whole("click", event.index[0], 0, factor * width - 1) // factor
        row = _whole("click", event.index[1], 0, factor * height - 1) // factor
        if tool == "disc":
            where = drawing.disc(row, column, _whole("radius", radius, 0, MAX_RADIUS))
        else:
            where = drawing.region(row, column)
        painted = drawing.repaint(where, self.ids[label])
        if painted is not drawing:
            sample = replace(sample, drawing=painted, undo=(*sample.undo, drawing)[-KEPT_UNDOS:], image=None)
        return *self._show_map(sample), *_no_image()

    def undo(self, sample: Sample):
        if not sample.undo:
            raise gr.Error("There is nothing to undo.", print_exception=False)
        sample = replace(sample, drawing=sample.undo[-1], undo=sample.undo[:-1], image=None)
        return *self._show_map(sample), *_no_image()

    def paint(self, sample: Sample, steps: float):
        drawing = sample.drawing
        if drawing is None:
            raise gr.Error("Draw a map first.", print_exception=False)
        steps = _whole("number of steps", steps, 1, MAX_STEPS)
        image = self.models.draw_image(drawing, sample.caption, sample.seed, steps)
        sample = replace(sample, image=image, sample_id=self.decisions.new_id())
        answer, seen, agreement = self.models.answer(image), None, ""
        if answer is not None:
            seen, agreement = magnify(answer.paint()), f"<p>{drawing.agreement(answer)}</p>{answer.legend()}"
        return sample, magnify(np.asarray(image.convert("RGB"))), seen, agreement, ""

    def decide(self, decision: str):
        def save(sample: Sample):
            if sample.image is None or sample.drawing is None:
                raise gr.Error("Paint the image first.", print_exception=False)
            scores = self.models.scores(sample.drawing.labels)
            self.decisions.save(
                sample.sample_id,
                decision,
                sample.image,
                sample.drawing,
                sample.caption,
                sample.seed,
                scores if sample.repainted else scores | sample.decode,
                sample.repainted,
            )
            counts = self.decisions.counts()
            word = "Kept" if decision == KEEP else "Rejected"
            return f"{word}. {counts[KEEP]} kept and {counts[REJECT]} rejected so far."

        return save

    def _show_map(self, sample: Sample):
        assert sample.drawing is not None
        return sample, magnify(sample.drawing.paint()), sample.drawing.legend()


def _no_image() -> tuple:
    """What stands in the place of image, answer, verdict and status while the map has no image."""
    return None, None, "", ""


def _slider(label: str, value: int) -> gr.Slider:
    return gr.Slider(1, MAX_STEPS, value=min(value, MAX_STEPS), step=1, label=label)


def _picture(label: str, name: str) -> gr.Image:
    # PNG: other formats would mix the colors of labels.
    return gr.Image(label=label, elem_id=name, format="png", interactive=False, buttons=[])


def _whole(name: str, value, low: int, high: int) -> int:
    """`value` as a whole number in [low, high]. Raises: `gr.Error`."""
    if not isinstance(value, (int, float)) or not low <= value <= high:
        raise gr.Error(f"The {name} must be a number from {low} to {high}.", print_exception=False)
    return int(value)
