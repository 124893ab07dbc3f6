"""A segmenter as one ONNX file, with normalization and the task's map in its graph, checked against PyTorch."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..labels import LabelSet
from ..segmenter.architectures import title_of
from ..segmenter.build import load_segmenter
from ..segmenter.eomt import fixed_side, mask_stride, settle_masking
from ..segmenter.inference import tiles_of
from ..segmenter.layers import adapt_layers
from ..storage.files import replacing, write_json, write_text
from ..storage.folders import EXPORT, claim_folder, hold_folder
from .prediction import find_labels

MODEL, FACTS = "model.onnx", "export.json"
OPSET = 18
MULTIPLE = 32  # of the side: what backbone and pixel decoder reduce by
CHECKED, TOLERANCE, EQUAL = 20, 1e-3, 0.999  # images; largest difference of logits; least share of equal pixels
MOST_SIDE = 8192
SIZES = (
    (64, 96),
    (256, 160),
    (96, 96),
    (160, 384),
    (384, 384),
)  # of the images that a graph of any size is checked on
MISSING = "ONNX needs the packages onnx, onnxscript and onnxruntime: pip install 'seggen_hf[onnx]'"


class OnnxSegmenter(nn.Module):
    """What the graph computes of uint8 RGB `images` `(batch, height, width, 3)`.

    semantic: `segmentation_map` `(batch, height, width)` int64, label ids. Other tasks, float32: `class_logits`
    `(batch, queries, labels + 1)`, the last one of no object, `mask_logits` `(batch, queries, height / 4, width / 4)`,
    of an EoMT with patches of other than 16 pixels of another size.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, processor: Any, task: str):
        super().__init__()
        self.model, self.task = model, task
        self.register_buffer("mean", 255 * torch.tensor(processor.image_mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(processor.image_std).view(1, 3, 1, 1))

    @property
    def outputs(self) -> list[str]:
        return ["segmentation_map"] if self.task == "semantic" else ["class_logits", "mask_logits"]

    def forward(self, images: torch.Tensor):
        pixels = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
        output = self.model(pixel_values=pixels)
        classes, masks = output.class_queries_logits, output.masks_queries_logits
        if self.task != "semantic":
            return classes, masks
        masks = nn.functional.interpolate(masks, size=pixels.shape[-2:], mode="bilinear", align_corners=False)
        return torch.einsum("bqc,bqhw->bchw", classes.softmax(-1)[..., :-1], masks.sigmoid()).argmax(1)


def export_onnx(
    segmenter: str | Path, out: str | Path, size: tuple[int, int] | None, task: str = "semantic", opset: int = OPSET
) -> dict:
    """Write `model.onnx` with labels.json and a page on its use into `out`; it is run beside PyTorch on 20 images.

    It takes any number of images, and images of any size if none is given.

    Args:
        segmenter: folder or Hub id of a trained one.
        size: height and width of the images, multiples of 32, of an EoMT the square that it sees; None for any up to
            8192, of one size a call. What the graph computes with shapes then stays in it, where runtimes such as
            TensorRT want fixed ones.
    Returns: what export.json holds: input, outputs, and the share of equal pixels or the logits' largest difference.
    Raises: `ValueError` for a segmenter that is not there or sees images through windows, another size, packages that
        are not installed, and a graph that computes something else.
    """
    onnxruntime = _runtime()
    if size and any(side < MULTIPLE or side % MULTIPLE for side in size):
        raise ValueError(f"--size is {size[0]}x{size[1]}; both must be multiples of {MULTIPLE}.")
    labels = find_labels(segmenter)
    model, processor = load_segmenter(segmenter, labels)
    if side := fixed_side(model.config):
        if size != (side, side):
            given = f"{size[0]}x{size[1]}" if size else "any"
            raise ValueError(f"--size is {given}; {segmenter} is an EoMT that sees {side}x{side} alone.")
        settle_masking(model)
    if tiles_of(processor) > 1:
        raise ValueError(
            f"{segmenter} sees images through {tiles_of(processor)} x {tiles_of(processor)} windows, which no single "
            "graph merges; `seggen predict` does."
        )
    adapt_layers(model)  # transformers' own would have the reference points of the exporter's sample in the graph
    network = OnnxSegmenter(model, processor, task).eval()
    folder = Path(out)
    claim_folder(folder, EXPORT)
    with hold_folder(folder, EXPORT), replacing(folder / MODEL) as temporary:
        _write_graph(network, temporary, size, opset)
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        facts = {
            "architecture": title_of(model.config),
            "task": task,
            "mask_stride": mask_stride(model.config),
            "opset": opset,
            "input": {"name": "images", "dtype": "uint8", "shape": ["batch", *(size or ("height", "width")), 3]},
            "outputs": network.outputs,
            **_compare(network, session, [size] if size else SIZES),
        }
        labels.save(folder)
        write_json(folder / FACTS, facts)
        write_text(folder / "README.md", _page(facts, labels))
    return facts


def _runtime() -> Any:
    try:
        import onnx  # noqa: F401  # pyright: ignore[reportMissingImports]
        import onnxruntime  # pyright: ignore[reportMissingImports]
        import onnxscript  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(f"{MISSING} ({error}).") from error
    return onnxruntime


def _write_graph(network: OnnxSegmenter, path: Path, size: tuple[int, int] | None, opset: int) -> None:
    dynamic: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=1024)}
    if size is None:
        for axis, name in enumerate(("height", "width"), start=1):
            dynamic[axis] = MULTIPLE * torch.export.Dim(f"{name}_by_{MULTIPLE}", min=1, max=MOST_SIDE // MULTIPLE)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # of torchvision's operators, which nothing here has
    # Of one image the exporter would take its number as fixed, and of a square that its sides are one.
    sample = torch.zeros(2, *(size or SIZES[0]), 3, dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own tree specs
        program: Any = torch.onnx.export(
            network,
            (sample,),
            dynamo=True,
            opset_version=opset,
            input_names=["images"],
            output_names=network.outputs,
            dynamic_shapes={"images": dynamic},
            verbose=False,
        )
    program.save(str(path))


def _compare(network: OnnxSegmenter, session: Any, sizes: Sequence[tuple[int, int]]) -> dict:
    """Of PyTorch and onnxruntime on smooth random images. Raises: `ValueError` if they disagree."""
    rng = np.random.default_rng(0)
    worst, equal = 0.0, 1.0
    for start in range(0, CHECKED, 4):
        size = sizes[start // 4 % len(sizes)]
        coarse = torch.from_numpy(rng.uniform(0, 255, (4, 3, 8, 8)).astype(np.float32))
        images = nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 255).byte().permute(0, 2, 3, 1)
        images = images.contiguous()[: 4 - (start > 0)]  # another number of images than the first time
        with torch.no_grad():
            expected = network(images)
        found = session.run(None, {"images": images.numpy()})
        if network.task == "semantic":
            equal = min(equal, float((found[0] == expected.numpy()).mean()))
        else:
            pairs = zip(found, expected, strict=True)
            worst = max(worst, *(float(np.abs(a - b.numpy()).max()) for a, b in pairs))
    if equal < EQUAL or worst > TOLERANCE:
        raise ValueError(
            f"The graph computes something else than PyTorch: {equal:.2%} of the pixels are equal, logits differ by "
            f"up to {worst:.2g}. Nothing was written."
        )
    return {"equal_pixels": equal} if network.task == "semantic" else {"largest_difference": worst}


def _page(facts: dict, labels: LabelSet) -> str:
    height, width = facts["input"]["shape"][1:3]
    is_fixed = isinstance(height, int)
    sized = f"of {height} x {width} pixels" if is_fixed else f"of any size whose sides are multiples of {MULTIPLE}"
    taken = f"({width}, {height})" if is_fixed else "(640, 480)"
    semantic = facts["task"] == "semantic"
    after = (
        'label_ids = session.run(None, {"images": images})[0]  # (batch, height, width), the ids of labels.json'
        if semantic
        else 'class_logits, mask_logits = session.run(None, {"images": images})\n'
        "# (batch, queries, labels + 1), the last one of no object; "
        f"(batch, queries, height / {facts['mask_stride']}, width / {facts['mask_stride']}).\n"
        "# A query is an object of class c with probability softmax(class_logits)[c]; its mask is where mask_logits,\n"
        "# enlarged bilinearly to the image's size, are above 0."
    )
    checked = (
        f"{facts['equal_pixels']:.2%} of the pixels are equal"
        if semantic
        else f"logits differ by at most {facts['largest_difference']:.1e}"
    )
    return (
        f"# {facts['architecture']} as ONNX\n\nOne file, `{MODEL}`, opset {facts['opset']}: {facts['task']} "
        f"segmentation with {labels.num_labels} labels (`labels.json`), images {sized}, any number of them. "
        f"Normalization is in the graph. Beside PyTorch on {CHECKED} images: {checked}.\n\n"
        "```python\nimport numpy as np\nimport onnxruntime\nfrom PIL import Image\n\n"
        f'session = onnxruntime.InferenceSession("{MODEL}")\n'
        f'image = Image.open("image.jpg").convert("RGB").resize({taken})\n'
        f"images = np.asarray(image)[None]  # uint8 (batch, {height}, {width}, 3)\n{after}\n```\n"
    )
