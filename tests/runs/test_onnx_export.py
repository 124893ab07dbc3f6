"""A segmenter as ONNX answers as PyTorch does, for any number of images, and of any size."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner
from unit_segmenters import eomt_config, unit_config

from seggen_hf.cli import app
from seggen_hf.data.scenes.records import scene_labels, scene_records
from seggen_hf.labels import LabelSet
from seggen_hf.runs.onnx_export import OnnxSegmenter, export_onnx
from seggen_hf.segmenter.build import build_segmenter, load_segmenter
from seggen_hf.segmenter.inference import predict_semantic

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def export(*words):
    return CliRunner().invoke(app, ["export", *map(str, words)])


@pytest.fixture
def segmenter_of_several_labels(tmp_path):
    """Of random weights, which otherwise see one label everywhere."""
    unit_config("swin", decoder_layers=2).save_pretrained(tmp_path / "config")  # the export's time grows with them
    model, processor = build_segmenter(tmp_path / "config", scene_labels(), seed=1)
    generator = torch.Generator().manual_seed(0)
    queries, masks = model.model.transformer_module, model.model.pixel_level_module.decoder.mask_projection
    spread = {queries.queries_features: 1, queries.queries_embedder: 1, model.class_predictor: 0.2, masks: 1}
    with torch.no_grad():
        for module, deviation in spread.items():
            module.weight.normal_(std=deviation, generator=generator)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "segmenter")
    scene_labels().save(tmp_path / "segmenter")
    return tmp_path / "segmenter"


@pytest.mark.slow
def test_a_graph_of_any_size_answers_at_each_as_the_model_does(segmenter_of_several_labels, tmp_path):
    """And as `predict` does, for any number of images; its page's code runs."""
    segmenter, out = segmenter_of_several_labels, tmp_path / "out"
    done = export(segmenter, out, "--size", "any", "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["equal_pixels"] >= 0.999 and facts["input"]["shape"] == ["batch", "height", "width", 3]
    model, processor = load_segmenter(segmenter, scene_labels())  # with the layers of transformers
    network = OnnxSegmenter(model, processor, "semantic").eval()
    session = onnxruntime.InferenceSession(str(out / "model.onnx"))
    scene = scene_records("test", num_records=1)["image"][0]
    for count, height, width in ((1, 32, 32), (1, 224, 96), (3, 96, 160)):
        images = np.stack([np.asarray(scene.resize((width, height)))] * count)
        (maps,) = session.run(None, {"images": images})
        with torch.no_grad():
            expected = network(torch.from_numpy(images)).numpy()
        assert maps.shape == expected.shape == (count, height, width) and maps.dtype == np.int64
        assert (maps == expected).mean() > 0.999 and len(np.unique(expected)) > 1
    images = np.stack([np.asarray(image) for image in scene_records("test", num_records=20)["image"]])
    (maps,) = session.run(None, {"images": images})
    assert (maps == np.stack(predict_semantic(model, processor, list(images)))).mean() > 0.999
    assert LabelSet.from_file(out).id2label == scene_labels().id2label
    page = (out / "README.md").read_text()
    assert "sides are multiples of 32" in page
    Image.fromarray(images[0]).save(out / "image.jpg")
    code = page.split("```python\n")[1].split("```")[0]
    for name in ("model.onnx", "image.jpg"):
        code = code.replace(f'"{name}"', repr(str(out / name)))
    names: dict = {}
    exec(code, names)
    assert names["label_ids"].shape == (1, 480, 640)


@pytest.mark.slow
def test_queries_of_other_tasks_are_the_models_own(tiny_run, tmp_path):
    segmenter = tiny_run / "segmenter-real/seed-0"
    done = export(segmenter, tmp_path / "out", "--size", "32x64", "--task", "panoptic", "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["largest_difference"] < 1e-3 and facts["outputs"] == ["class_logits", "mask_logits"]
    model, processor = load_segmenter(segmenter, scene_labels())
    network = OnnxSegmenter(model, processor, "panoptic").eval()
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 64, 3), dtype=np.uint8)
    found = onnxruntime.InferenceSession(str(tmp_path / "out/model.onnx")).run(None, {"images": images})
    with torch.no_grad():
        expected = network(torch.from_numpy(images))
    assert all(np.abs(a - b.numpy()).max() < 1e-3 for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["--size", "60x64"], 1, "both must be multiples of 32"),
        (["--size", "64"], 2, "write HEIGHTxWIDTH"),
        (["--format", "tflite"], 2, "there are onnx, folder"),
        (["--task", "depth"], 2, "There is no task"),
    ],
)
def test_what_cannot_be_exported_is_told(tiny_run, tmp_path, words, status, told):
    done = export(tiny_run / "segmenter-real/seed-0", tmp_path / "out", *words)
    assert done.exit_code == status and told in done.stderr, done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "task"), [("eomt", "semantic"), ("eomt_dinov3", "panoptic")])
def test_an_eomt_is_exported_at_the_one_size_that_it_sees(tmp_path, kind, task):
    """Whatever its blocks' masked attention: the graph has no branch for it."""
    eomt_config(kind).save_pretrained(tmp_path / "config")
    model, processor = build_segmenter(tmp_path / "config", scene_labels())
    model.attn_mask_probs.copy_(torch.tensor([0.0, 1.0 if task == "panoptic" else 0.0]))
    folder = tmp_path / "segmenter"
    model.save_pretrained(folder), processor.save_pretrained(folder), scene_labels().save(folder)
    facts = export_onnx(folder, tmp_path / "out", (64, 64), task)
    assert facts["architecture"] == "EoMT" and (tmp_path / "out/README.md").read_text().startswith("# EoMT as ONNX")
    assert facts.get("equal_pixels", 1.0) >= 0.999 and facts.get("largest_difference", 0.0) < 1e-3
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    found = onnxruntime.InferenceSession(str(tmp_path / "out/model.onnx")).run(None, {"images": images})
    with torch.no_grad():
        expected = OnnxSegmenter(model, processor, task).eval()(torch.from_numpy(images))
    if task == "semantic":
        assert (found[0] == expected.numpy()).mean() > 0.999
    else:
        assert all(np.abs(a - b.numpy()).max() < 1e-3 for a, b in zip(found, expected, strict=True))
    with pytest.raises(ValueError, match="--size is 32x64; .* is an EoMT that sees 64x64 alone"):
        export_onnx(folder, tmp_path / "other", (32, 64), task)
