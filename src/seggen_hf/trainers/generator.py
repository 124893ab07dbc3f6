"""What the trainings of Text2Mask and Mask2Img share: base, records, cached samples, conditioning, validation."""

import contextlib
import hashlib
import json
import logging
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Image
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image as PILImage

from ..config import DataConfig, GeneratorConfig
from ..data.mixture import shuffle_windows
from ..data.schema import check_columns, read_image, read_map, read_panoptic
from ..data.sources.streamed import StreamedRecords
from ..data.transforms import cover_crop_map, flip_pair, random_zoom_crop
from ..digests import records_digest, weights_digest
from ..files import write_folder
from ..miniature.architecture import resolve_base
from ..pipelines import ColormapCodec, PanopticCodec
from .compiled import compile_blocks
from .latents import LatentCache, compress_map, digest_of, pack_maps, unpack_map
from .objective import DenoisingObjective

logger = logging.getLogger(__name__)

# Pixels encoded together while the cache is made: SDXL's autoencoder needs some 5 GB for one 768 x 768 image in fp32.
ENCODE_PIXELS = 768 * 768
ENCODE_CAPTIONS = 32
VALIDATION_BATCH = 4  # pictures drawn together


def load_base(config: GeneratorConfig) -> StableDiffusionXLPipeline:
    """The SDXL pipeline that a training starts from, float32, safetensors only.

    Raises:
        ValueError: there is no such pipeline, or it cannot be read.
    """
    try:
        return StableDiffusionXLPipeline.from_pretrained(
            resolve_base(config.base_model),
            revision=config.revision,
            use_safetensors=True,
            dtype=torch.float32,
            add_watermarker=False,
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"--base_model {config.base_model} cannot be loaded: {error}") from error


def load_unet(config: GeneratorConfig) -> UNet2DConditionModel:
    """The base's U-Net alone, float32 on the CPU."""
    return UNet2DConditionModel.from_pretrained(
        resolve_base(config.base_model),
        subfolder="unet",
        revision=config.revision,
        use_safetensors=True,
        dtype=torch.float32,
    )


def check_captions(captions: list[str], tokenizers) -> None:
    """Warn of captions that the text encoders do not read whole: characters they do not know, and more tokens than
    they have places for."""
    unknown, long = set(), set()
    for tokenizer in tokenizers:
        ids = tokenizer(captions, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        places = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
        unknown |= {i for i, tokens in enumerate(ids) if tokenizer.unk_token_id in tokens}
        long |= {i for i, tokens in enumerate(ids) if len(tokens) > places}
    for found, what in ((unknown, "hold characters that the base's tokenizer does not know"),
                        (long, f"are longer than the {places} tokens that the base reads")):  # fmt: skip
        if found:
            logger.warning("%d of %d captions %s, first: %r", len(found), len(captions), what, captions[min(found)])


def cast_weights(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Give all parameters `dtype`, in place; they stay the same objects."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)


def build_panoptic_codec(data: DataConfig, labels) -> PanopticCodec | None:
    """The codec of segments that `data` asks for; None for semantic segmentation."""
    return None if data.task == "semantic" else PanopticCodec(labels, data.panoptic_coding, data.num_shades)


class GeneratorTask:
    """A task of `trainers.loop` on an SDXL base; subclasses say what trains and what is predicted from what.

    One training sample is drawn from (record index, rng) alone. With the cache, `to()` first encodes what is missing:
    the mode of the autoencoder's posterior (its spread is far below that of the latents, and sampling it would cost a
    second array) for a few fixed views of every record, and `encode_prompt`'s embeddings of every caption.

    Args:
        base (`StableDiffusionXLPipeline`): float32 on the CPU; the task owns its modules from here on.
        records (`Dataset` or `StreamedRecords`): image, segmentation_map and caption columns.
        labels (`LabelSet`): the labels of the maps.
        panoptic_codec (`PanopticCodec`): paints segments, from panoptic_map and segments_info; label ids are painted
            if it is not given. What is called a segmentation map here holds the codec's color indices then.
    """

    needs_image = False  # whether the encoded pixels are the record's image; otherwise its color map

    def __init__(
        self,
        base: StableDiffusionXLPipeline,
        config: GeneratorConfig,
        records: Dataset,
        labels,
        panoptic_codec: PanopticCodec | None = None,
    ):
        self.base, self.config, self.panoptic_codec = base, config, panoptic_codec
        self.codec = panoptic_codec.colors if panoptic_codec else ColormapCodec(labels)
        self.id2label = dict(labels.id2label)
        self.objective = DenoisingObjective(base.scheduler.config, config.snr_gamma)
        self.size = (config.height, config.width)
        factor = base.vae_scale_factor
        if config.height % factor or config.width % factor:
            raise ValueError(f"--height and --width are {self.size}; the base's latents need multiples of {factor}.")
        self.latent_shape = (base.unet.config.in_channels, config.height // factor, config.width // factor)
        for module in (base.vae, base.text_encoder, base.text_encoder_2, base.unet):
            module.requires_grad_(False).eval()
        self.device, self.weight_dtype = torch.device("cpu"), torch.float32
        self._read_records(records)
        self.num_variants = self._count_variants()
        self.cache: LatentCache | None = None
        self._unet_digest = weights_digest({"unet": base.unet})
        self.trainable = self._build_trainable()

    @classmethod
    def from_config(cls, config: GeneratorConfig, records: Dataset, labels, panoptic_codec=None) -> "GeneratorTask":
        """Load the base that `config` names and build the task on it."""
        return cls(load_base(config), config, records, labels, panoptic_codec)

    def _build_trainable(self) -> torch.nn.Module:
        raise NotImplementedError

    def predict(self, module: torch.nn.Module, noisy: torch.Tensor, batch: dict) -> torch.Tensor:
        """The network's answer to noisy latents `(batch, channels, h, w)`; the same shape."""
        raise NotImplementedError

    # Records

    def _read_records(self, records: Dataset) -> None:
        check_columns("records", records, "panoptic" if self.panoptic_codec else "semantic")
        maps = ["panoptic_map", "segments_info"] if self.panoptic_codec else ["segmentation_map"]
        columns = [*maps, "caption", *(["image"] if self.needs_image else [])]
        missing = [name for name in columns if name not in records.column_names]
        if missing:
            raise ValueError(
                f"The records have no column {missing[0]!r}; they have {sorted(records.column_names)}."
                + (" Add captions with `seggen caption`." if missing[0] == "caption" else "")
            )
        if len(records) == 0:
            raise ValueError("There are no records to train on.")
        self.num_records = len(records)
        self.captions = [caption or "" for caption in records["caption"][:]]
        check_captions(self.captions, (self.base.tokenizer, self.base.tokenizer_2))
        self._original = records
        self._columns = columns
        self._records = records.select_columns([name for name in columns if name != "caption"])
        for name in self._records.column_names:
            if isinstance(self._records.features[name], Image) and self._records.features[name].decode:
                self._records = self._records.cast_column(name, Image(decode=False))
        self._maps = self._records.select_columns(maps)  # of a stream, images are not fetched with it

    def _read_map(self, record: dict) -> np.ndarray:
        """Ids `(height, width)` of a record's map, before it is resized: of labels, or of segments."""
        return read_panoptic(record["panoptic_map"]) if self.panoptic_codec else read_map(record["segmentation_map"])

    def _finish_map(self, resized: np.ndarray, record: dict) -> np.ndarray:
        """What `self.codec` paints. Shades are chosen only now: in a smaller map other instances touch."""
        if self.panoptic_codec is None:
            return resized
        return self.panoptic_codec.index(resized, record["segments_info"])

    @property
    def _colormap(self) -> dict:
        return (self.panoptic_codec or self.codec).to_dict()

    @property
    def colormap(self) -> dict:
        """What travels with the pipeline: the codec, and the size of the training."""
        return self._colormap | {"height": self.size[0], "width": self.size[1]}

    @property
    def map_dtype(self):
        return np.uint8 if self.codec.ignore_index <= 255 and self.codec.num_labels <= 255 else np.uint16

    def view(self, index: int, flip: bool, rng: np.random.Generator) -> dict:
        """A record as training sees it: mirrored if `flip`, scaled to cover, zoomed and cropped by draws from `rng`.

        Returns: `segmentation_map` (height, width) of `map_dtype`, ids that `codec` paints; `pixels` (height, width,
        3) uint8, the image or the color map; `time_ids` (6,) int32, SDXL's original size, crop corner and target size.
        """
        record = self._records[index]
        segmentation_map = self._read_map(record)
        image = read_image(record["image"]) if self.needs_image else np.zeros((*segmentation_map.shape, 3), np.uint8)
        if flip:
            image, segmentation_map = flip_pair(image, segmentation_map)
        image, segmentation_map, facts = random_zoom_crop(
            image, segmentation_map, self.size, self.config.max_crop_zoom, rng
        )
        segmentation_map = self._finish_map(segmentation_map, record)
        original, corner = facts["original_size"], facts["crop_top_left"]
        if self.config.size_conditioning == "target":
            original, corner = self.size, (0, 0)
        return {
            "segmentation_map": segmentation_map.astype(self.map_dtype),
            "pixels": image if self.needs_image else self.codec.encode(segmentation_map),
            "time_ids": np.array([*original, *corner, *self.size], np.int32),
        }

    def _survey(self) -> list[int]:
        """Up to 32 records, evenly spread: what sizes are judged by before all of them are read. Of a stream the first
        ones: the others lie in as many row groups."""
        if isinstance(self._original, StreamedRecords):
            return list(range(min(32, self.num_records)))
        return np.unique(np.linspace(0, self.num_records - 1, 32).astype(int)).tolist()

    def _count_variants(self) -> int:
        """Views cached of each record: as many as asked for, but no more than can differ."""
        ratio = self.size[0] / self.size[1]
        shapes = (self._read_map(self._maps[i]).shape for i in self._survey())
        if self.config.max_crop_zoom > 1 or any(h / w != ratio for h, w in shapes):
            return self.config.cache_variants
        return min(self.config.cache_variants, 2 if self.config.random_flip else 1)

    def _cached_view(self, index: int, variant: int) -> dict:
        """View number `variant` of a record, always the same; every second one is mirrored."""
        rng = np.random.default_rng([self.config.seed, 2**33, index, variant])
        mirrored = rng.random() < 0.5 if self.num_variants == 1 else variant % 2 == 1
        return self.view(index, self.config.random_flip and mirrored, rng)

    # Encoding

    def encode_captions(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings `(batch, tokens, width)` and pooled `(batch, width_2)`, exactly those of the pipeline."""
        with torch.no_grad():
            embeds, _, pooled, _ = self.base.encode_prompt(
                captions, device=self.device, do_classifier_free_guidance=False
            )
        return embeds, pooled

    def encode_null(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What the pipeline puts in an absent prompt's place under guidance (SDXL: zeros), `(1, ...)` each."""
        with torch.no_grad():
            _, embeds, _, pooled = self.base.encode_prompt("", device=self.device, do_classifier_free_guidance=True)
        return embeds, pooled

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 `(batch, height, width, 3)` -> scaled latents `(batch, channels, h, w)`, float32."""
        vae, config = self.base.vae, self.base.vae.config
        images = pixels.to(self.device).movedim(-1, 1).float() / 127.5 - 1
        # float32 whatever the precision of the training: SDXL's autoencoder overflows in half precision.
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            latents = vae.encode(images).latent_dist.mode()
        if config.get("latents_mean") is not None and config.get("latents_std") is not None:
            mean = torch.tensor(config.latents_mean, device=latents.device).view(1, -1, 1, 1)
            std = torch.tensor(config.latents_std, device=latents.device).view(1, -1, 1, 1)
            return (latents - mean) * config.scaling_factor / std
        return latents * config.scaling_factor

    def _encode_records(self, indices: range) -> dict[str, np.ndarray]:
        """The arrays of a chunk of the cache."""
        dtype = self._cache_dtype
        places = [(index, v) for index in indices for v in range(self.num_variants)]
        group = max(1, ENCODE_PIXELS // (self.size[0] * self.size[1]))
        latents, time_ids, maps = [], [], []
        for start in range(0, len(places), group):  # pixels are let go at once: a chunk may hold thousands of views
            views = [self._cached_view(*place) for place in places[start : start + group]]
            latents.append(self.encode_pixels(torch.from_numpy(np.stack([view["pixels"] for view in views]))).cpu())
            time_ids += [view["time_ids"] for view in views]
            maps += [compress_map(view["segmentation_map"]) for view in views] if self.needs_image else []
        rows = (len(indices), self.num_variants)
        arrays = {
            "latents": torch.cat(latents).numpy().astype(dtype).reshape(*rows, *self.latent_shape),
            "time_ids": np.stack(time_ids).reshape(*rows, 6),
        }
        captions = [self.captions[index] for index in indices]
        encoded = [
            self.encode_captions(captions[start : start + ENCODE_CAPTIONS])
            for start in range(0, len(captions), ENCODE_CAPTIONS)
        ]
        arrays["prompt_embeds"] = torch.cat([embeds for embeds, _ in encoded]).cpu().numpy().astype(dtype)
        arrays["pooled"] = torch.cat([pooled for _, pooled in encoded]).cpu().numpy().astype(dtype)
        if self.needs_image:
            arrays["map_bytes"], map_places = pack_maps(maps)
            arrays["map_places"] = map_places.reshape(*rows, 2)
        return arrays

    @property
    def _cache_dtype(self):
        return np.float32 if self.weight_dtype == torch.float32 else np.float16

    @cached_property
    def _inputs(self) -> dict[str, str]:
        """Digests of records, encoders and vocabulary."""
        encoders = {name: getattr(self.base, name) for name in ("vae", "text_encoder", "text_encoder_2")}
        vocabulary = [sorted(t.get_vocab().items()) for t in (self.base.tokenizer, self.base.tokenizer_2)]
        return {
            "records": self._digest_records(),
            "encoders": weights_digest(encoders),
            "vocabulary": hashlib.blake2b(json.dumps(vocabulary).encode(), digest_size=16).hexdigest(),
        }

    def _digest_records(self) -> str:
        if isinstance(self._original, StreamedRecords):
            return digest_of({"streamed": self._original.facts, "captions": self.captions})
        return records_digest(self._original, self._columns)

    def facts(self) -> dict:
        """Digests of records, labels with their colors, and the base."""
        colormap = digest_of({"colormap": self._colormap})
        return self._inputs | {"task": type(self).__name__, "colormap": colormap, "unet": self._unet_digest}

    def _cache_facts(self) -> dict:
        names = ("height", "width", "random_flip", "max_crop_zoom", "seed", "size_conditioning")
        return {name: getattr(self.config, name) for name in names} | {
            "task": type(self).__name__,
            **self._inputs,
            "scaling": [self.base.vae.config.get(k) for k in ("scaling_factor", "latents_mean", "latents_std")],
            "colormap": self._colormap,
            "variants": self.num_variants,
            "dtype": np.dtype(self._cache_dtype).name,
        }

    def estimate_cache(self) -> int:
        """Bytes of the whole cache: arrays exactly, compressed maps by those of up to 32 records."""
        item = np.dtype(self._cache_dtype).itemsize
        embeds, pooled = (tensor[0].numel() for tensor in self.encode_null())
        per_variant = int(np.prod(self.latent_shape)) * item + 24
        if self.needs_image:
            survey = self._survey()
            packed = sum(len(compress_map(self._cached_view(index, 0)["segmentation_map"])) for index in survey)
            per_variant += -(-packed // len(survey)) + 16
        return self.num_records * (self.num_variants * per_variant + (embeds + pooled) * item)

    # The task, as the loop sees it

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the frozen parts; make or find the cache. Collective. The autoencoder and the text encoders stay in
        float32 (they run once), and on the CPU once their output is cached."""
        self.device, self.weight_dtype = torch.device(device), dtype
        self._move_encoders(self.device)
        self._null = tuple(tensor.float().cpu().numpy()[0] for tensor in self.encode_null())
        if self.config.cache_latents:
            self.cache = LatentCache(Path(self.config.output_dir) / "cache", self._cache_facts(), self.num_records)
            if not self.cache.is_complete:
                self._check_maps()
            self.cache.build(self._encode_records, self.estimate_cache(), self.config.cache_max_gb)
            self._move_encoders(torch.device("cpu"))
        self._move_frozen()  # last: what encodes has the device for itself
        if self.config.torch_compile:
            compile_blocks(self.trainable)
            compile_blocks(self.base.unet)

    def _check_maps(self) -> None:
        """Refuse maps that the codec cannot paint before anything is encoded; a survey, not all of them."""
        for index in self._survey():
            self.codec.encode(self.resized_map(index))

    def _move_frozen(self) -> None:
        """Move what else is frozen to `self.device` and `self.weight_dtype`."""

    def _move_encoders(self, device: torch.device) -> None:
        for module in (self.base.vae, self.base.text_encoder, self.base.text_encoder_2):
            module.to(device)

    def epoch_order(self, rng: np.random.Generator) -> np.ndarray:
        """A permutation of the records; of a stream without a cache one that keeps to what was fetched."""
        is_fetched_again = isinstance(self._original, StreamedRecords) and not self.config.cache_latents
        return shuffle_windows(self.num_records, self._original.windows() if is_fetched_again else None, rng)

    def parameter_groups(self) -> list[dict]:
        return [{"params": [p for p in self.trainable.parameters() if p.requires_grad]}]

    def sample(self, index: int, rng: np.random.Generator, step: int) -> dict:
        """One training sample; noise and timestep are drawn first, so that they are those of the uncached training."""
        sample = {
            "noise": rng.standard_normal(self.latent_shape, dtype=np.float32),
            "timestep": rng.integers(self.objective.num_timesteps),
        }
        dropped = rng.random() < self.config.caption_dropout or not self.captions[index]
        if self.cache is None:
            flip = rng.random() < 0.5
            caption = None if dropped else self.captions[index]
            return sample | self.view(index, self.config.random_flip and flip, rng) | {"caption": caption}
        variant = int(rng.integers(self.num_variants))
        sample["latents"] = self.cache.read("latents", index, variant)
        sample["time_ids"] = self.cache.read("time_ids", index, variant)
        if dropped:
            sample["prompt_embeds"], sample["pooled"] = self._null
        else:
            sample["prompt_embeds"] = self.cache.read("prompt_embeds", index)
            sample["pooled"] = self.cache.read("pooled", index)
        if self.needs_image:
            data = self.cache.read_bytes("map", index, variant)
            sample["segmentation_map"] = unpack_map(data, self.map_dtype, self.size)
        return sample

    def collate(self, samples: list[dict]) -> dict:
        """Stack samples; float arrays become float32."""
        batch = {}
        for name in samples[0]:
            values = [sample[name] for sample in samples]
            if name == "caption":
                batch["captions"] = values
            elif name != "segmentation_map":
                stacked = torch.from_numpy(np.stack(values))
                batch[name] = stacked.float() if stacked.is_floating_point() else stacked
        return batch

    def loss(self, module: torch.nn.Module, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Mean over the batch of each sample's (weighted) squared error, and the plain squared error."""
        latents = batch["latents"] if "latents" in batch else self.encode_pixels(batch["pixels"])
        if "prompt_embeds" not in batch:
            batch["prompt_embeds"], batch["pooled"] = self._encode_with_null(batch["captions"])
        noisy = self.objective.add_noise(latents, batch["noise"], batch["timestep"])
        prediction = self.predict(module, noisy, batch)
        loss, plain = self.objective.loss(prediction, latents, batch["noise"], batch["timestep"])
        return loss, {"squared_error": plain}

    def _encode_with_null(self, captions: list[str | None]) -> tuple[torch.Tensor, torch.Tensor]:
        embeds, pooled = self.encode_captions([caption or "" for caption in captions])
        dropped = torch.tensor([caption is None for caption in captions], device=embeds.device)
        null_embeds, null_pooled = (torch.from_numpy(null).to(embeds) for null in self._null)
        return torch.where(dropped[:, None, None], null_embeds, embeds), torch.where(
            dropped[:, None], null_pooled, pooled
        )

    # Validation and artefact

    def validation_indices(self) -> list[int]:
        """The records whose captions and maps every validation shows: evenly spread, always the same."""
        count = min(self.config.num_validation_images, self.num_records)
        return np.linspace(0, self.num_records - 1, count).astype(int).tolist()

    def resized_map(self, index: int) -> np.ndarray:
        """A record's map as training sees it without zoom: the middle window, ids that `codec` paints."""
        record = self._maps[index]
        return self._finish_map(cover_crop_map(self._read_map(record), self.size), record)

    @contextlib.contextmanager
    def sampling(self, captions: list[str]):
        """Within the block the pipeline can run: all but the text encoders on the device, computing in the training's
        precision, but for the autoencoder, which decodes in float32.

        Yields: the pipeline's arguments that stand for `captions` under guidance, one row a caption.
        """
        vae, decode = self.base.vae, self.base.vae.decode
        # Norms: where autocast leaves them to their input (on a CPU), that is float32 at times. The rest is 99.9%.
        networks = {*self.base.unet.parameters(), *self.trainable.parameters()}
        rounded = [p for p in networks if p.dtype != torch.float32 and p.ndim == 1]

        def decode_in_float32(latents, *args, **kwargs):
            with torch.autocast(self.device.type, enabled=False):
                return decode(latents.float(), *args, **kwargs)

        prompts = self._encode_prompts(captions)
        vae.to(self.device)
        for parameter in rounded:
            parameter.data = parameter.data.float()
        vae.decode = decode_in_float32
        vae.enable_slicing()  # one image at a time
        try:
            precision = torch.autocast(
                self.device.type, dtype=self.weight_dtype, enabled=self.weight_dtype != torch.float32
            )
            with torch.no_grad(), precision:
                yield prompts
        finally:
            del vae.decode
            vae.disable_slicing()
            for parameter in rounded:
                parameter.data = parameter.data.to(self.weight_dtype)
            if self.cache is not None:
                self._move_encoders(torch.device("cpu"))

    def _encode_prompts(self, captions: list[str]) -> dict[str, torch.Tensor]:
        encoders = (self.base.text_encoder, self.base.text_encoder_2)
        for encoder in encoders:
            encoder.to(self.device)
        with torch.no_grad():
            encoded = self.base.encode_prompt(captions, device=self.device, do_classifier_free_guidance=True)
        if self.cache is not None:  # the device has no room for what does not run
            for encoder in encoders:
                encoder.to("cpu")
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        return dict(zip(names, encoded, strict=True))


def save_pipeline(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Write `pipeline` into `folder` beside what is there, safetensors; model_index.json comes last, so that a folder
    with one is whole."""
    write_folder(
        folder, lambda staging: pipeline.save_pretrained(staging, safe_serialization=True), "model_index.json"
    )


def save_grid(rows: list[list[np.ndarray]], path: Path, gap: int = 2) -> None:
    """Write equally large RGB pictures `(height, width, 3)` uint8 as one PNG, a list a row, whole or not at all."""
    height, width = rows[0][0].shape[:2]
    canvas = np.full((len(rows) * (height + gap) - gap, max(map(len, rows)) * (width + gap) - gap, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            top, left = r * (height + gap), c * (width + gap)
            canvas[top : top + height, left : left + width] = picture
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    PILImage.fromarray(canvas).save(temporary, "PNG")
    temporary.replace(path)
