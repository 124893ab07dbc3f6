"""What the trainings of Text2Mask and Mask2Img share: base, records, cached samples, conditioning, validation."""

import contextlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from diffusers import DiffusionPipeline

from seggen_hf.pipelines import ColormapCodec, PanopticCodec

from ..config import DataConfig, GeneratorConfig
from ..miniature.architecture import resolve_base
from ..pictures.grid import save_grid
from ..pictures.spacing import spread
from ..storage.content_digests import weights_digest
from ..storage.digests import digest_of
from ..storage.files import write_folder
from .compiled import compile_blocks
from .encoding import check_captions, images_at_once
from .families.choice import load_family, read_family
from .families.family import Family
from .latents import CACHE, LatentCache, compress_map, unpack_map
from .views import RecordViews

VALIDATION_BATCH = 4  # pictures drawn together


def load_base(config: GeneratorConfig) -> DiffusionPipeline:
    """The pipeline that a training starts from; see `load_family`."""
    return load_family(config).base


def load_network(config: GeneratorConfig) -> Any:
    """The base's denoising network alone, float32 on the CPU."""
    return read_family(config).load_network(resolve_base(config.base_model), config)


def cast_weights(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Give all parameters `dtype`, in place; they stay the same objects."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)


def build_panoptic_codec(data: DataConfig, labels) -> PanopticCodec | None:
    """The codec of segments that `data` asks for; None for semantic segmentation."""
    return None if data.task == "semantic" else PanopticCodec(labels, data.panoptic_coding, data.num_shades)


class GeneratorTask:
    """A task of `trainers.loop` on a base; subclasses say what trains and what is predicted from what.

    One training sample is drawn from (record index, rng) alone. With the cache, `to()` first encodes what is missing:
    the mode of the autoencoder's posterior (its spread is far below that of the latents, and sampling it would cost a
    second array) for a few fixed views of every record, and `encode_prompt`'s embeddings of every caption.

    Args:
        family (`Family`): the base, on the CPU; the task owns its modules from here on.
        records (`Dataset` or `StreamedRecords`): image, segmentation_map and caption columns.
        labels (`LabelSet`): the labels of the maps.
        panoptic_codec (`PanopticCodec`): paints segments, from panoptic_map and segments_info; label ids are painted
            if it is not given.

    Attributes:
        base (`DiffusionPipeline`): the pipeline of `family`; `network`: what denoises in it.
        views (`RecordViews`): the records as training sees them.
        encoders (`Encoders`): of their pixels and captions.
    """

    needs_image = False  # whether the encoded pixels are the record's image; otherwise its color map
    needs_map = True  # whether the records have maps at all
    image_gamma = 1.0  # of the pixels that are encoded
    trains_text_encoders = False  # whether the text encoders train: then captions are read in every step

    def __init__(
        self,
        family: Family,
        config: GeneratorConfig,
        records: Dataset,
        labels,
        panoptic_codec: PanopticCodec | None = None,
    ):
        self.family, self.base, self.network = family, family.base, family.network
        self.config, self.panoptic_codec = config, panoptic_codec
        self.codec = panoptic_codec.colors if panoptic_codec else ColormapCodec(labels)
        self.id2label = dict(labels.id2label)
        self.objective = family.build_objective(config)
        self.size = (config.height, config.width)
        family.check_size(*self.size)
        factor = family.size_factor
        self.latent_shape = (family.latent_channels, config.height // factor, config.width // factor)
        self.encoders = family.build_encoders()
        self.encoders.image_gamma = self.image_gamma
        self.network.requires_grad_(False).eval()
        self.device, self.weight_dtype = torch.device("cpu"), torch.float32
        self.views = RecordViews(records, config, self.codec, panoptic_codec, self.needs_image, self.needs_map)
        self.captions, self.num_records = self.views.captions, len(self.views)
        check_captions(self.captions, self.encoders)
        self.cache: LatentCache | None = None
        self._network_digest = weights_digest({family.part: self.network})
        self.trainable = self._build_trainable()

    @classmethod
    def from_config(cls, config: GeneratorConfig, records: Dataset, labels, panoptic_codec=None) -> "GeneratorTask":
        """Load the base that `config` names and build the task on it."""
        return cls(load_family(config), config, records, labels, panoptic_codec)

    def _build_trainable(self) -> torch.nn.Module:
        raise NotImplementedError

    def predict(self, module: torch.nn.Module, noisy: torch.Tensor, batch: dict) -> torch.Tensor:
        """The network's answer to noisy latents `(batch, channels, h, w)`; the same shape."""
        raise NotImplementedError

    # What the training is made of

    @property
    def _colormap(self) -> dict:
        return (self.panoptic_codec or self.codec).to_dict()

    @property
    def colormap(self) -> dict:
        """What travels with the pipeline: the codec, and the size of the training."""
        return self._colormap | {"height": self.size[0], "width": self.size[1]}

    @cached_property
    def _inputs(self) -> dict[str, str]:
        """Digests of records, encoders and vocabulary."""
        return {"records": self.views.digest()} | self.encoders.digests()

    def facts(self) -> dict:
        """Digests of records, labels with their colors, and the base."""
        colormap = digest_of({"colormap": self._colormap})
        return self._inputs | {
            "task": type(self).__name__,
            "colormap": colormap,
            self.family.part: self._network_digest,
        }

    # The cache

    @property
    def _caches_maps(self) -> bool:
        """Whether a sample is an image and its map."""
        return self.needs_image and self.needs_map

    @property
    def _cache_dtype(self):
        return np.float32 if self.weight_dtype == torch.float32 else np.float16

    def _cache_facts(self) -> dict:
        names = ("height", "width", "random_flip", "max_crop_zoom", "seed", "size_conditioning")
        gamma = {"image_gamma": self.image_gamma} if self.image_gamma != 1 else {}
        without = {"captions": False} if self.trains_text_encoders else {}
        return (
            {name: getattr(self.config, name) for name in names}
            | gamma
            | without
            | {
                "task": type(self).__name__,
                **self._inputs,
                "scaling": self.encoders.scaling(),
                "colormap": self._colormap,
                "variants": self.views.num_variants,
                "dtype": np.dtype(self._cache_dtype).name,
            }
        )

    def _encode_records(self, indices: range) -> dict[str, np.ndarray]:
        """The arrays of a chunk of the cache."""
        views = (self.views.variant(index, v) for index in indices for v in range(self.views.num_variants))
        captions = None if self.trains_text_encoders else [self.captions[index] for index in indices]
        at_once = images_at_once(*self.size)
        settings = (at_once, self._cache_dtype, self._caches_maps)
        return self.encoders.encode_chunk(views, len(indices), captions, *settings)

    def estimate_cache(self) -> int:
        """Bytes of the whole cache: arrays exactly, compressed maps by those of up to 32 records."""
        item = np.dtype(self._cache_dtype).itemsize
        embeddings = 0
        if not self.trains_text_encoders:
            embeddings = sum(tensor[0].numel() for tensor in self.encoders.encode_null())
        per_variant = int(np.prod(self.latent_shape)) * item + 24
        if self._caches_maps:
            survey = self.views.survey()
            packed = sum(len(compress_map(self.views.variant(index, 0)["segmentation_map"])) for index in survey)
            per_variant += -(-packed // len(survey)) + 16
        return self.num_records * (self.views.num_variants * per_variant + embeddings * item)

    # The task, as the loop sees it

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the frozen parts; make or find the cache. Collective. The autoencoder and the text encoders stay in
        float32 (they run once), and on the CPU once their output is cached; text encoders that train come back."""
        self.device, self.weight_dtype = torch.device(device), dtype
        self.encoders.to(self.device)
        self._null = tuple(tensor.float().cpu().numpy()[0] for tensor in self.encoders.encode_null())
        if self.config.cache_latents:
            self.cache = LatentCache(Path(self.config.output_dir) / CACHE, self._cache_facts(), self.num_records)
            if not self.cache.is_complete and self.needs_map:
                self._check_maps()
            self.cache.build(self._encode_records, self.estimate_cache(), self.config.cache_max_gb)
            self.encoders.to(torch.device("cpu"))
        self._move_frozen()  # last: what encodes has the device for itself
        if self.config.torch_compile:
            compile_blocks(self.trainable)
            compile_blocks(self.network)

    def _check_maps(self) -> None:
        """Refuse maps that the codec cannot paint before anything is encoded; a survey, not all of them."""
        for index in self.views.survey():
            self.codec.encode(self.views.resized_map(index))

    def _move_frozen(self) -> None:
        """Move what else is frozen to `self.device` and `self.weight_dtype`."""

    def epoch_order(self, rng: np.random.Generator) -> np.ndarray:
        """A permutation of the records; of a stream without a cache one that keeps to what was fetched."""
        return self.views.order(rng, is_fetched=not self.config.cache_latents)

    def parameter_groups(self) -> list[dict]:
        return [{"params": [p for p in self.trainable.parameters() if p.requires_grad]}]

    def sample(self, index: int, rng: np.random.Generator, step: int) -> dict:
        """One training sample; noise and timestep are drawn first, so that they are those of the uncached training."""
        sample = {
            "noise": rng.standard_normal(self.latent_shape, dtype=np.float32),
            "timestep": rng.integers(self.objective.num_timesteps),
        }
        dropped = rng.random() < self.config.caption_dropout or not self.captions[index]
        if self.cache is None or self.trains_text_encoders:
            sample["caption"] = None if dropped else self.captions[index]
        if self.cache is None:
            flip = rng.random() < 0.5
            return sample | self.views.view(index, self.config.random_flip and flip, rng)
        variant = int(rng.integers(self.views.num_variants))
        sample["latents"] = self.cache.read("latents", index, variant)
        sample["time_ids"] = self.cache.read("time_ids", index, variant)
        if not self.trains_text_encoders:
            for name, null in zip(self.encoders.arrays, self._null, strict=True):
                sample[name] = null if dropped else self.encoders.unpack(self.cache.read(name, index))
        if self._caches_maps:
            data = self.cache.read_bytes("map", index, variant)
            sample["segmentation_map"] = unpack_map(data, self.views.map_dtype, self.size)
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
        latents = batch["latents"] if "latents" in batch else self.encoders.encode_pixels(batch["pixels"])
        if "captions" in batch and not self.trains_text_encoders:
            null = [torch.from_numpy(row) for row in self._null]
            encoded = self.encoders.encode_kept(batch["captions"], null)
            batch |= dict(zip(self.encoders.arrays, encoded, strict=True))
        noisy = self.objective.add_noise(latents, batch["noise"], batch["timestep"])
        prediction = self.predict(module, noisy, batch)
        loss, plain = self.objective.loss(prediction, latents, batch["noise"], batch["timestep"])
        return loss, {"squared_error": plain}

    # Validation and artefact

    def validation_indices(self) -> list[int]:
        """The records whose captions and maps every validation shows: evenly spread, always the same."""
        return spread(self.num_records, self.config.num_validation_images)

    def draw_validation(self, pipeline: Any, indices: list[int], **settings: Any) -> Iterator[Any]:
        """What `pipeline` draws for the captions of these records with fixed seeds, some at a time.

        Args:
            settings: more arguments of the pipeline's call; a list has a value for each record.
        Yields: its output, as arrays, of `VALIDATION_BATCH` records each.
        """
        pipeline.set_progress_bar_config(disable=True)
        with self.sampling([self.captions[i] for i in indices]) as prompts:
            for start in range(0, len(indices), VALIDATION_BATCH):
                part = slice(start, start + VALIDATION_BATCH)
                yield pipeline(
                    **{name: rows[part] for name, rows in prompts.items()},
                    **{name: value[part] if isinstance(value, list) else value for name, value in settings.items()},
                    height=self.size[0],
                    width=self.size[1],
                    num_inference_steps=self.config.validation_inference_steps,
                    guidance_scale=self.config.validation_guidance_scale,
                    generator=[torch.Generator().manual_seed(self.config.seed + i) for i in indices[part]],
                    output_type="np",
                )

    def write_validation(self, rows: list[list[np.ndarray]], indices: list[int], step: int, folder: Path) -> None:
        """Write rows of pictures of these records as `folder/step-XXXXXXXX.png`, and their captions beside it."""
        save_grid(rows, folder / f"step-{step:08d}.png")
        (folder / "captions.txt").write_text("".join(f"{self.captions[i]}\n" for i in indices))

    def _root_norms(self) -> set[torch.nn.Parameter]:
        """Weights of norms that want their input's own precision."""
        norms = (module for module in self.network.modules() if isinstance(module, torch.nn.RMSNorm))
        return {parameter for norm in norms for parameter in norm.parameters()}

    @contextlib.contextmanager
    def sampling(self, captions: list[str]):
        """Within the block the pipeline can run: all but the text encoders on the device, computing in the training's
        precision, but for the autoencoder, which decodes in float32.

        Yields: the pipeline's arguments that stand for `captions` under guidance, one row a caption.
        """
        # Norms: where autocast leaves them to their input (on a CPU), that is float32 at times. The rest is 99.9%.
        networks = {*self.network.parameters(), *self.trainable.parameters()} - self._root_norms()
        rounded = [p for p in networks if p.dtype != torch.float32 and p.ndim == 1]
        precision = torch.autocast(
            self.device.type, dtype=self.weight_dtype, enabled=self.weight_dtype != torch.float32
        )
        prompts = self.encoders.encode_prompts(captions, self.device)
        with self.encoders.decoding(self.device):
            for parameter in rounded:
                parameter.data = parameter.data.float()
            try:
                with torch.no_grad(), precision:
                    yield prompts
            finally:
                for parameter in rounded:
                    parameter.data = parameter.data.to(self.weight_dtype)


def save_pipeline(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Write `pipeline` into `folder` beside what is there, safetensors; model_index.json comes last, so that a folder
    with one is whole."""
    write_folder(
        folder, lambda staging: pipeline.save_pretrained(staging, safe_serialization=True), "model_index.json"
    )
