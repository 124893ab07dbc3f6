"""The caption column: a template over the labels present, or any captioning model of transformers."""

import json
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from datasets import Dataset, Value
from tqdm.auto import tqdm

from ..config import CaptionConfig
from ..labels import LabelSet
from .looks import count_words, describe_look
from .schema import labels_of, open_image, read_image, read_map, save_dataset
from .sources.streamed import StreamedRecords

Records = TypeVar("Records", bound=Dataset | StreamedRecords)

TEMPLATE = "template"
PREFIX = "a photo of "
EMPTY = "a photo"  # nothing but void
MAX_NAMES = 8
MIN_SHARE = 0.005  # of the labelled pixels; smaller classes are not named
CHAT_PROMPT = "Describe this image in one short sentence."


def template_caption(
    segmentation_map: np.ndarray,
    labels: LabelSet,
    max_names: int = MAX_NAMES,
    min_share: float = MIN_SHARE,
    counts: Mapping[int, str] | None = None,
    look: str = "",
) -> str:
    """Name the classes present, largest first: "a photo of road, building, sky, car (several), dark gray".

    Args:
        segmentation_map (`np.ndarray` of shape `(height, width)`): label ids; other ids (void) are passed over.
        max_names (`int`): the most classes named.
        min_share (`float`): classes with a smaller share of the labelled pixels are not named.
        counts: `{label id: how many things}` in words (`count_words`).
        look: of the picture (`describe_look`); the closing clause.
    """
    areas = np.bincount(np.asarray(segmentation_map, np.int64).ravel(), minlength=labels.num_labels)
    areas = areas[: labels.num_labels]
    order = np.argsort(-areas, kind="stable")  # equal areas: the lower id first
    present = [index for index in order if areas[index] > 0 and areas[index] >= min_share * areas.sum()]
    number = {index: f" ({word})" for index, word in (counts or {}).items()}
    names = dict.fromkeys(simple_name(labels.id2label[int(i)]) + number.get(int(i), "") for i in present)
    told = PREFIX + ", ".join([*names][:max_names]) if names else EMPTY
    return f"{told}, {look}" if look else told


def with_classes(caption: str | None, segmentation_map: np.ndarray, labels: LabelSet) -> str:
    """The caption of an image whose map has become known: one that tells no more than a look gets the classes too."""
    if not caption or caption.startswith(f"{EMPTY}, "):
        return template_caption(segmentation_map, labels) + (caption or "")[len(EMPTY) :]
    return caption


def simple_name(name: str) -> str:
    """A class name as a person would write it: "road, route" -> "road", "wall-other-merged" -> "wall"."""
    first = re.split(r"[,;/(]", name)[0].lower()
    first = re.sub(r"-(other|merged|stuff)\b", "", first)
    return re.sub(r"[-_\s]+", " ", first).strip() or name


def write_captions(records: Dataset, config: CaptionConfig, folder: Path) -> Dataset:
    """Write the records with captions as a `datasets` folder; interrupted, the same call goes on where it was."""
    progress = folder / "progress.jsonl"
    captioned = add_captions(records, labels_of(records), config, progress_file=progress)
    save_dataset(captioned, folder)
    progress.unlink(missing_ok=True)
    return captioned


def add_captions(
    records: Records,
    labels: LabelSet,
    config: CaptionConfig,
    progress_file: str | Path | None = None,
    device: str | None = None,
) -> Records:
    """Fill the `caption` column; a caption that is there stays unless `config.recaption`.

    Args:
        records (`datasets.Dataset` or `StreamedRecords`): with image, segmentation_map, image_id and perhaps caption.
        config (`CaptionConfig`): `captioner` is `template`, or the id or folder of a captioning model. BLIP-2 and BLIP
            caption as they are; chat-style models are asked `caption_prompt`. Decoding is greedy, hence deterministic.
            Where a model says nothing the template speaks, which says nothing where there are no maps.
        progress_file (`str`): JSON lines `{"image_id", "caption"}`, appended by batches; a killed run goes on there.
        device (`str`): of the model; cuda where there is one, if not given.
    Returns: the same records with captions; nothing is captioned if all have one.
    """
    captions: list[Any] = list(records["caption"][:]) if "caption" in records.column_names else [None] * len(records)
    wanted = [index for index, caption in enumerate(captions) if config.recaption or not (caption or "").strip()]
    ids = records["image_id"][:]
    done = _read_progress(progress_file, config) if progress_file else {}
    for index in wanted:
        captions[index] = done.get(ids[index])
    missing = [index for index in wanted if not captions[index]]
    if missing:
        batches = _caption_batches(records, missing, labels, config, device)
        for batch, texts in tqdm(batches, "Captioning", total=-(-len(missing) // config.caption_batch_size), delay=2):
            for index, text in zip(batch, texts, strict=True):
                captions[index] = text
            if progress_file:
                _append_progress(progress_file, config, [(ids[index], captions[index]) for index in batch])
    if not wanted and "caption" in records.column_names:
        return records
    return _set_captions(records, captions)


def _caption_batches(
    records: Dataset | StreamedRecords, indices: list[int], labels: LabelSet, config: CaptionConfig, device
):
    """Yield (indices, captions) batch by batch."""
    size = config.caption_batch_size
    batches = [indices[start : start + size] for start in range(0, len(indices), size)]
    read_from = [name for name in ("segmentation_map", "segments_info") if name in records.column_names]
    read_from += ["image"] if {"light", "color"} & set(config.attributes) else []
    rows = records.select_columns(read_from)

    def from_template(index: int) -> str:
        row = rows[index] if read_from else {}
        look = describe_look(read_image(row["image"]), config.attributes) if "image" in row else ""
        if "segmentation_map" not in row:
            return f"{EMPTY}, {look}" if look else ""
        is_counted = "density" in config.attributes and row.get("segments_info") is not None
        counts = count_words(row["segments_info"]) if is_counted else None
        return template_caption(read_map(row["segmentation_map"]), labels, counts=counts, look=look)

    if config.captioner == TEMPLATE:
        with ThreadPoolExecutor(max_workers=4) as pool:
            for batch in batches:
                yield batch, list(pool.map(from_template, batch))
        return
    captioner = Captioner(config.captioner, config.caption_prompt, config.max_new_tokens, device)
    images = records.select_columns("image")
    for batch in batches:
        texts = captioner([open_image(images[index]["image"]).convert("RGB") for index in batch])
        yield batch, [text or from_template(index) for index, text in zip(batch, texts, strict=True)]


class Captioner:
    """A captioning model of transformers, by Hub id or folder: `captioner(images) -> captions`.

    Args:
        name_or_path (`str`): BLIP-2, BLIP, or a vision-language model that `AutoModelForImageTextToText` knows.
        prompt (`str`): continued by BLIP and BLIP-2 (none by default); the question to chat-style models.
        max_new_tokens (`int`): longest caption.
        device (`str`): cuda where there is one, if not given. Half precision on cuda, float32 elsewhere.
    """

    def __init__(self, name_or_path: str, prompt: str | None = None, max_new_tokens: int = 40, device=None):
        import torch  # heavy, and the template does without
        import transformers

        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        self.prompt, self.max_new_tokens = prompt, max_new_tokens
        kind = transformers.AutoConfig.from_pretrained(name_or_path).model_type
        model_class, processor_class = {
            "blip-2": ("Blip2ForConditionalGeneration", "Blip2Processor"),
            "blip": ("BlipForConditionalGeneration", "BlipProcessor"),
        }.get(kind, ("AutoModelForImageTextToText", "AutoProcessor"))
        self.processor = getattr(transformers, processor_class).from_pretrained(name_or_path)
        model = getattr(transformers, model_class).from_pretrained(
            name_or_path, dtype=self.dtype, use_safetensors=True
        )
        if kind == "blip-2" and (self.processor.num_query_tokens is None or model.config.image_token_index is None):
            # Checkpoints from before transformers 4.46 do not say where the image goes.
            self.processor.num_query_tokens = model.config.num_query_tokens
            model.resize_token_embeddings(len(self.processor.tokenizer), pad_to_multiple_of=64)
            model.config.image_token_index = self.processor.tokenizer.convert_tokens_to_ids("<image>")
        self.processor.tokenizer.padding_side = "left"  # generation continues at the right
        self.model = model.to(self.device).eval()
        self.is_chat = kind not in ("blip", "blip-2") and bool(getattr(self.processor, "chat_template", None))
        self.prompts_empty = kind == "blip-2"  # its processor puts the image tokens before a text, even an empty one

    def __call__(self, images: list) -> list[str]:
        """Captions of RGB PIL images, in their order; "" where the model says nothing."""
        import torch

        inputs = self._prepare(images).to(self.device)
        inputs = {name: v.to(self.dtype) if v.is_floating_point() else v for name, v in inputs.items()}
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=self.max_new_tokens)
        given = inputs.get("input_ids")
        if given is not None and tokens.shape[1] >= given.shape[1] and torch.equal(tokens[:, : given.shape[1]], given):
            tokens = tokens[:, given.shape[1] :]
        texts = self.processor.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    def _prepare(self, images: list):
        if self.is_chat:
            question = {"type": "text", "text": self.prompt or CHAT_PROMPT}
            chats = [[{"role": "user", "content": [{"type": "image", "image": image}, question]}] for image in images]
            return self.processor.apply_chat_template(
                chats,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True},
            )
        text = [self.prompt or ""] * len(images) if self.prompt or self.prompts_empty else None
        return self.processor(images=images, text=text, return_tensors="pt")


def _set_captions(records: Dataset | StreamedRecords, captions: list[str]) -> Any:
    if isinstance(records, StreamedRecords):
        return records.with_captions(captions)
    order = records.column_names
    rest = records.remove_columns("caption") if "caption" in order else records
    filled = rest.add_column("caption", captions, feature=Value("string"))
    return filled.select_columns(order if "caption" in order else [*order, "caption"])


def _signature(config: CaptionConfig) -> list:
    more = [config.attributes] if config.attributes else []
    return [config.captioner, config.caption_prompt, config.max_new_tokens, *more]


def _read_progress(path: str | Path, config: CaptionConfig) -> dict[str, str]:
    """Captions of an interrupted run with the same captioner; a line that was cut off is passed over."""
    done = {}
    if not Path(path).is_file():
        return done
    # A kill may cut a character in two; U+2028 in a caption ends no line.
    for line in Path(path).read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("captioner") == _signature(config):
            done[entry["image_id"]] = entry["caption"]
    return done


def _append_progress(path: str | Path, config: CaptionConfig, entries: list[tuple[str, str]]) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [{"image_id": i, "caption": c, "captioner": _signature(config)} for i, c in entries]
    with open(path, "a", encoding="utf-8") as file:
        # The leading newline ends a line that a kill cut off.
        file.write("\n" + "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
