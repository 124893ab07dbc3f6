"""Captions: the template names what is there, real captioning models run from folders, and the work is done once."""

import json

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from makers import CATEGORIES, block_map, photo
from tokenizers import Tokenizer, models, pre_tokenizers

from seggen_hf.config import CaptionConfig
from seggen_hf.data.captions import Captioner, add_captions, simple_name, template_caption
from seggen_hf.data.schema import attach_labels, encode_image, encode_map, labels_of, record_features
from seggen_hf.labels import LabelSet

LABELS = LabelSet.from_dict(CATEGORIES)
WORDS = "a photo of the sky road car red blue describe this image in one short sentence . user assistant :".split()


def make_records(captions=(None, None, None)) -> Dataset:
    rows = [
        {
            "image": encode_image(photo(i)),
            "segmentation_map": encode_map(block_map(i), 3),
            "caption": caption,
            "image_id": f"r{i}",
        }
        for i, caption in enumerate(captions)
    ]
    return attach_labels(Dataset.from_list(rows, features=record_features()), LABELS)


# The template


def test_the_template_names_classes_largest_first():
    assert template_caption(block_map(), LABELS) == "a photo of sky, road, car"
    segmentation_map = np.full((20, 20), 255)
    segmentation_map[:3] = 2
    segmentation_map[3] = 0
    assert template_caption(segmentation_map, LABELS) == "a photo of car, sky"


def test_the_template_passes_over_specks_void_and_too_many_names():
    segmentation_map = np.zeros((100, 100), np.int32)
    segmentation_map[0, :49] = 2
    assert template_caption(segmentation_map, LABELS) == "a photo of sky"
    segmentation_map[0, :51] = 2
    assert template_caption(segmentation_map, LABELS) == "a photo of sky, car"
    assert template_caption(block_map(), LABELS, max_names=1) == "a photo of sky"
    assert template_caption(np.full((4, 4), 255), LABELS) == "a photo"


@pytest.mark.parametrize(
    ("name", "simple"),
    [
        ("road, route", "road"),
        ("wall-other-merged", "wall"),
        ("floor-wood", "floor wood"),
        ("traffic_light", "traffic light"),
        ("Sky", "sky"),
        ("food-other-merged", "food"),
        ("door-stuff", "door"),
    ],
)
def test_class_names_become_plain_words(name, simple):
    assert simple_name(name) == simple


@pytest.mark.parametrize("name", ["ade20k", "coco"])
def test_every_name_of_the_builtin_sets_stays_a_word(name):
    labels = LabelSet.builtin(name)
    for label in labels.id2label.values():
        assert simple_name(label) and "," not in simple_name(label) and "-" not in simple_name(label)


# The column


def test_captions_that_are_there_stay_unless_asked_for():
    records = make_records(["mine", None, "  "])
    captioned = add_captions(records, LABELS, CaptionConfig())
    template = [template_caption(block_map(i), LABELS) for i in range(3)]
    assert captioned["caption"][:] == ["mine", template[1], template[2]]
    assert captioned.column_names == records.column_names and labels_of(captioned) == LABELS
    again = add_captions(records, LABELS, CaptionConfig(recaption=True))
    assert again["caption"][:] == template
    assert add_captions(captioned, LABELS, CaptionConfig(captioner="no/such-model")) is captioned  # nothing to do


def test_records_without_the_column_get_one():
    captioned = add_captions(make_records().remove_columns("caption"), LABELS, CaptionConfig())
    assert captioned["caption"][0] == "a photo of sky, road, car"


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "captions" / "progress.jsonl"
    config = CaptionConfig(caption_batch_size=1)
    add_captions(make_records().select([0]), LABELS, config, progress_file=path)
    entry = json.loads(path.read_text().split("\n")[1])
    whole, cut = json.dumps(entry | {"caption": "kept"}), '{"image_id": "r1", "caption": "a caf\u00e9'
    path.write_bytes(f"{whole}\n{cut}".encode()[:-1])  # killed in a line, inside a character
    captioned = add_captions(make_records(), LABELS, config, progress_file=path)
    assert captioned["caption"][0] == "kept" and captioned["caption"][1].startswith("a photo of")
    assert len([line for line in path.read_text(errors="replace").splitlines() if line.endswith("}")]) == 3
    other = add_captions(make_records(), LABELS, CaptionConfig(max_new_tokens=7), progress_file=path)
    assert other["caption"][0] != "kept"  # made by other settings


# Real models at random weights, saved to folders


def make_tokenizer(*special: str) -> transformers.PreTrainedTokenizerFast:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *special, *WORDS]
    tokenizer = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token="[CLS]",
        eos_token="[SEP]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        additional_special_tokens=list(special) or None,
    )


SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def save_blip(folder):
    tokenizer = make_tokenizer()
    text = SMALL | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 64,
        "bos_token_id": 2,
        "sep_token_id": 3,
        "eos_token_id": 3,
        "pad_token_id": 0,
        "encoder_hidden_size": 16,
    }
    config = transformers.BlipConfig(
        text_config=text, vision_config=SMALL | {"image_size": 16, "patch_size": 8}, projection_dim=16
    )
    torch.manual_seed(0)
    transformers.BlipForConditionalGeneration(config).save_pretrained(folder)
    image_processor = transformers.BlipImageProcessorPil(size={"height": 16, "width": 16})
    transformers.BlipProcessor(image_processor, tokenizer).save_pretrained(folder)


def save_blip2(folder, old: bool = False):
    tokenizer = make_tokenizer(*([] if old else ["<image>"]))
    config = transformers.Blip2Config(
        vision_config=SMALL | {"image_size": 16, "patch_size": 8},
        qformer_config=SMALL | {"encoder_hidden_size": 16, "vocab_size": 30},
        text_config={
            "model_type": "opt",
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "ffn_dim": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "word_embed_proj_dim": 16,
            "max_position_embeddings": 128,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "pad_token_id": 0,
        },
        num_query_tokens=4,
        image_token_index=None if old else tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(0)
    transformers.Blip2ForConditionalGeneration(config).save_pretrained(folder)
    image_processor = transformers.BlipImageProcessorPil(size={"height": 16, "width": 16})
    processor = transformers.Blip2Processor(image_processor, tokenizer, num_query_tokens=None if old else 4)
    processor.save_pretrained(folder)


def save_llava(folder):
    tokenizer = make_tokenizer("<image>")
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**SMALL, image_size=16, patch_size=8),
        text_config=transformers.LlamaConfig(
            **SMALL, vocab_size=len(tokenizer), bos_token_id=2, eos_token_id=3, pad_token_id=0
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(0)
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    image_processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    template = (
        "{% for message in messages %}{{ message['role'] }} : {% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}assistant : {% endif %}"
    )
    transformers.LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)


SAVERS = {
    "blip": save_blip,
    "blip-2": save_blip2,
    "blip-2 from before 4.46": lambda folder: save_blip2(folder, old=True),
    "chat": save_llava,
}


@pytest.mark.parametrize("kind", SAVERS)
def test_captioning_models_say_the_same_whatever_the_batch(tmp_path, kind):
    SAVERS[kind](tmp_path)
    captioner = Captioner(str(tmp_path), max_new_tokens=6, device="cpu")
    images = make_records()["image"][:]
    for captioner.prompt in (None, "the photo of"):
        captions = captioner(images)
        assert captions == [caption for image in images for caption in captioner([image])]
        assert any(captions)
        for caption in captions:
            assert "<image>" not in caption and "[" not in caption and len(caption.split()) <= 7


def test_a_model_captions_the_records_that_have_none(tmp_path):
    save_blip2(tmp_path)
    config = CaptionConfig(captioner=str(tmp_path), caption_batch_size=2, max_new_tokens=6)
    captions = add_captions(make_records([None, "mine", None, None]), LABELS, config, device="cpu")["caption"][:]
    said = Captioner(str(tmp_path), max_new_tokens=6, device="cpu")(make_records([None] * 4)["image"][:])
    template = [template_caption(block_map(i), LABELS) for i in range(4)]
    assert captions == [said[0] or template[0], "mine", said[2] or template[2], said[3] or template[3]]


def test_the_model_sees_the_picture(tmp_path):
    save_blip2(tmp_path)
    captioner = Captioner(str(tmp_path), device="cpu", max_new_tokens=4)
    seen = []
    captioner.model.language_projection.register_forward_hook(lambda module, args, output: seen.append(output))
    images = [records_image["image"] for records_image in make_records()]
    captioner(images[:2])
    assert seen[0].shape[:2] == (2, 4) and not torch.allclose(seen[0][0], seen[0][1])


def test_only_safetensors_are_loaded(tmp_path):
    save_blip(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        Captioner(str(tmp_path), device="cpu")
