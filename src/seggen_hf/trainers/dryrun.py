"""What a recipe would train, before it costs anything: modules on the meta device, shapes, memory, disk."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from huggingface_hub import hf_hub_download
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Mask2FormerForUniversalSegmentation,
)

from ..config import GeneratorConfig, Mask2ImgConfig, SegmenterConfig, Text2MaskConfig, TrainingConfig
from ..inference import SIZE_DIVISOR
from ..miniature import resolve_base
from ..pipelines import condition_channels
from ..sdxl_config import SDXL_BASE_ID, SDXL_CONFIGS
from ..segmenter_configs import hub_config
from ..segmenters import find_config
from .generator import cast_weights
from .lora import add_lora
from .mask2img import ControlledUNet, _denoise, check_controlnet, embedding_channels
from .objective import DenoisingObjective

_GIB = 2**30
_BYTES = {"no": 4, "fp16": 2, "bf16": 2}
_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class StagePlan:
    """One training: what its dry run found. Bytes are per process."""

    name: str
    parameters: dict[str, int]
    trained: int
    shapes: dict[str, tuple]
    steps: int
    samples_per_step: int
    memory: dict[str, int]
    notes: list[str] = field(default_factory=list)

    @property
    def total_bytes(self) -> int:
        return sum(self.memory.values())

    def to_dict(self) -> dict:
        """JSON values, the totals among them."""
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        return vars(self) | {"shapes": shapes, "total_bytes": self.total_bytes}

    def to_text(self) -> str:
        """Lines for a person."""
        lines = [f"{self.name}", "  parameters"]
        lines += [f"    {name:<28}{count:>16,}" for name, count in self.parameters.items()]
        lines += [f"    {'of them trained':<28}{self.trained:>16,}", "  shapes of a batch in one process"]
        lines += [f"    {name:<28}{' x '.join(map(str, shape))}" for name, shape in self.shapes.items()]
        samples = self.steps * self.samples_per_step
        lines += [f"  {self.steps:,} steps x {self.samples_per_step:,} samples = {samples:,} samples seen"]
        lines += ["  memory of one process (GiB)"]
        lines += [f"    {name:<44}{size / _GIB:>8.2f}" for name, size in self.memory.items()]
        lines += [f"    {'total':<44}{self.total_bytes / _GIB:>8.2f}"]
        return "\n".join(lines + [f"  {note}" for note in self.notes])


def count(module: torch.nn.Module, trained: bool = False) -> int:
    """Parameters of a module, or those of them that train."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


def read_base_configs(base_model: str, revision: str | None = None) -> dict[str, dict]:
    """Configurations of an SDXL base: unet, vae, text_encoder, text_encoder_2, scheduler.

    SDXL-base 1.0's are built in, a folder's are read, others come from the Hub or its cache.

    Raises: `ValueError` if one cannot be had.
    """
    if base_model == SDXL_BASE_ID:
        return SDXL_CONFIGS
    found = {}
    for part in SDXL_CONFIGS:
        name = f"{part}/scheduler_config.json" if part == "scheduler" else f"{part}/config.json"
        try:
            folder = Path(resolve_base(base_model))
            path = folder / name if folder.is_dir() else hf_hub_download(base_model, name, revision=revision)
            found[part] = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"--base_model {base_model} has no readable {name}: {reason}") from error
    return found


class _FusedAttention(torch.autograd.Function):
    """What fused attention keeps for the backward pass: its inputs and its output, never the attention matrix."""

    @staticmethod
    def forward(ctx, query, key, value):
        output = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(ctx, gradient):
        raise AssertionError("a dry run has no backward pass")


@contextlib.contextmanager
def _fused_attention() -> Iterator[None]:
    original = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda query, key, value, *args, **kwargs: _FusedAttention.apply(
        query, key, value
    )
    try:
        yield
    finally:
        F.scaled_dot_product_attention = original


def measure_activations(forward, modules: list[torch.nn.Module], checkpointing: bool) -> int:
    """Bytes that autograd keeps between forward and backward pass, from running `forward()` once on the meta device.

    Tensors that share memory count once, parameters not at all. With gradient checkpointing the residual and
    transformer blocks keep their inputs alone, and the largest of them is recomputed in full.
    """
    owned = {p.untyped_storage()._cdata for module in modules for p in module.parameters()}
    kept: dict[int, torch.Tensor] = {}
    total, within, inputs, largest = 0, 0, 0, 0
    begun: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage._cdata not in owned and storage._cdata not in kept:
            kept[storage._cdata] = tensor  # held, so that no other tensor takes its place
            total += storage.nbytes()
        return tensor

    def before(module, arguments):
        begun.append(total)

    def after(module, arguments, output):
        nonlocal within, inputs, largest
        size = total - begun.pop()
        within, largest = within + size, max(largest, size)
        inputs += output.nbytes  # as large as the input, or larger where a residual block widens

    blocks = [b for m in modules for b in m.modules() if isinstance(b, (ResnetBlock2D, BasicTransformerBlock))]
    handles = [b.register_forward_pre_hook(before) for b in blocks] + [b.register_forward_hook(after) for b in blocks]
    with _fused_attention(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    for handle in handles:
        handle.remove()
    return total - within + inputs + largest if checkpointing else total


def _training_memory(
    config: TrainingConfig, trained: int, frozen: int, activations: int | None, processes: int
) -> dict:
    """Bytes by purpose; the formulas stand in the names."""
    half = config.mixed_precision != "no"
    memory = {
        "trained weights (4 bytes each)": 4 * trained,
        f"frozen weights ({_BYTES[config.mixed_precision]} bytes each)": _BYTES[config.mixed_precision] * frozen,
        "gradients (4 bytes)": 4 * trained,
        "AdamW's two moments (8 bytes)": 8 * trained,
    }
    if half:
        memory["half-precision copies of trained weights"] = 2 * trained
    if config.ema_decay > 0:
        memory["EMA (4 bytes)"] = 4 * trained
    if processes > 1:
        memory["DDP's gradient buckets (4 bytes)"] = 4 * trained
    if activations is not None:
        memory[f"activations of {config.train_batch_size} samples (forward on meta)"] = activations
    return memory


class MetaBase:
    """The modules of an SDXL base on the meta device."""

    def __init__(self, config: GeneratorConfig):
        configs = read_base_configs(config.base_model, config.revision)
        with torch.device("meta"):
            self.unet = UNet2DConditionModel.from_config(configs["unet"])
            self.vae = AutoencoderKL.from_config(configs["vae"])
            self.text_encoder = CLIPTextModel(CLIPTextConfig.from_dict(configs["text_encoder"]))
            self.text_encoder_2 = CLIPTextModelWithProjection(CLIPTextConfig.from_dict(configs["text_encoder_2"]))
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.tokens = self.text_encoder.config.max_position_embeddings
        self.text_width = self.text_encoder.config.hidden_size + self.text_encoder_2.config.hidden_size
        self.pooled_width = self.text_encoder_2.config.projection_dim
        self.objective = DenoisingObjective(configs["scheduler"], config.snr_gamma)
        self._check(config)

    def _check(self, config: GeneratorConfig) -> None:
        if config.height % self.factor or config.width % self.factor:
            raise ValueError(
                f"--height and --width are {config.height} and {config.width}; they must be multiples of "
                f"{self.factor}."
            )
        if self.unet.config.cross_attention_dim != self.text_width:
            raise ValueError(
                f"{config.base_model}: the U-Net reads captions of width {self.unet.config.cross_attention_dim}, the "
                f"two text encoders write {self.text_width}. It is no SDXL."
            )
        if self.unet.config.in_channels != self.vae.config.latent_channels:
            raise ValueError(
                f"{config.base_model}: the U-Net takes {self.unet.config.in_channels} channels, the autoencoder makes "
                f"{self.vae.config.latent_channels}."
            )

    def parameters(self) -> dict[str, int]:
        return {name: count(getattr(self, name)) for name in ("unet", "vae", "text_encoder", "text_encoder_2")}

    def shapes(self, config: GeneratorConfig) -> dict[str, tuple]:
        batch = config.train_batch_size
        return {
            "latents": (
                batch,
                self.unet.config.in_channels,
                config.height // self.factor,
                config.width // self.factor,
            ),
            "caption embeddings": (batch, self.tokens, self.text_width),
            "pooled embeddings": (batch, self.pooled_width),
            "time ids": (batch, 6),
        }

    def inputs(self, config: GeneratorConfig, dtype: torch.dtype) -> tuple:
        """noisy latents, timesteps, caption embeddings, added conditions of one batch, on meta."""
        latents, embeds, pooled, ids = (torch.empty(s, device="meta") for s in self.shapes(config).values())
        steps = torch.zeros(config.train_batch_size, dtype=torch.long, device="meta")
        return latents.to(dtype), steps, embeds.to(dtype), {"text_embeds": pooled.to(dtype), "time_ids": ids}

    def cache_bytes(self, config: GeneratorConfig, with_maps: bool) -> int:
        """Bytes of a record in the cache; its compressed maps as 2% of their pixels (measured on the scenes: 4%)."""
        item = _BYTES[config.mixed_precision]
        _, channels, height, width = self.shapes(config)["latents"]
        per_view = channels * height * width * item + 24
        per_view += (config.height * config.width // 50 + 16) if with_maps else 0
        return config.cache_variants * per_view + (self.tokens * self.text_width + self.pooled_width) * item


def _cache_notes(base: MetaBase, config: GeneratorConfig, with_maps: bool, num_records: int | None) -> list[str]:
    if not config.cache_latents:
        return ["no cache: the autoencoder and the text encoders run in every step"]
    size = base.cache_bytes(config, with_maps)
    notes = [
        f"cache: {size / 1e6:.2f} MB a record in {config.cache_variants} views; --cache_max_gb "
        f"{config.cache_max_gb:g} holds {int(config.cache_max_gb * 1e9 / size):,} records"
    ]
    if num_records is not None:
        total = size * num_records / 1e9
        notes.append(f"cache of {num_records:,} records: {total:.1f} GB")
        if total > config.cache_max_gb:
            raise ValueError(
                f"{notes[-1]}; --cache_max_gb allows {config.cache_max_gb:g}. Raise it or lower --cache_variants."
            )
    return notes


def plan_text2mask(
    config: Text2MaskConfig, num_records: int | None = None, processes: int = 1, measure: bool = True
) -> StagePlan:
    """The dry run of Text2Mask's training.

    Args:
        num_records (`int`): what the cache's size on disk is told and checked for.
        processes (`int`): of the training, each with its own batch.
        measure (`bool`): estimate activations by a forward pass on meta: some seconds for SDXL.

    Raises: `ValueError` for what the training would refuse.
    """
    base, dtype = MetaBase(config), _DTYPES[config.mixed_precision]
    unet = base.unet.requires_grad_(not config.lora_rank).train()
    parameters = base.parameters()
    if config.lora_rank:
        with torch.device("meta"):
            add_lora(unet, config)
        parameters["lora"] = count(unet, trained=True)
    trained = count(unet, trained=True)
    cast_weights(unet, dtype)
    noisy, steps, embeds, added = base.inputs(config, dtype)
    notes = [f"predicts {base.objective.prediction_type}", *_cache_notes(base, config, False, num_records)]
    activations = None
    if measure:
        activations = measure_activations(
            lambda: unet(noisy, steps, embeds, added_cond_kwargs=added), [unet], config.gradient_checkpointing
        )
    return StagePlan(
        name="text2mask",
        parameters=parameters,
        trained=trained,
        shapes=base.shapes(config),
        steps=config.max_train_steps,
        samples_per_step=config.train_batch_size * config.gradient_accumulation_steps * processes,
        memory=_training_memory(config, trained, count(unet) - trained, activations, processes),
        notes=notes,
    )


def plan_mask2img(
    config: Mask2ImgConfig,
    num_records: int | None = None,
    processes: int = 1,
    measure: bool = True,
    num_labels: int | None = None,
) -> StagePlan:
    """The dry run of Mask2Img's training; see `plan_text2mask`. `num_labels` decides how many bit planes there are;
    those of 255 if it is not known."""
    base, dtype = MetaBase(config), _DTYPES[config.mixed_precision]
    num_channels = condition_channels(config.conditioning, num_labels or 255)
    with torch.device("meta"):
        if config.controlnet_model:
            path = Path(config.controlnet_model)
            try:
                file = path / "config.json" if path.is_dir() else hf_hub_download(str(path), "config.json")
            except OSError as error:
                raise ValueError(f"--controlnet_model {path} cannot be read: {str(error).splitlines()[0]}") from error
            controlnet = ControlNetModel.from_config(json.loads(Path(file).read_text()))
            is_known = num_labels is not None or config.conditioning != "bits"
            check_controlnet(controlnet, base.unet, base.factor, num_channels if is_known else None)
        else:
            controlnet = ControlNetModel.from_unet(
                base.unet,
                conditioning_channels=num_channels,
                conditioning_embedding_out_channels=embedding_channels(base.factor),
                load_weights_from_unet=False,
            )
    controlnet.train()
    adapter = {}
    if config.lora_rank:
        with torch.device("meta"):
            add_lora(controlnet.requires_grad_(False), config)
        adapter = {"lora": count(controlnet, trained=True)}
    unet = base.unet.requires_grad_(config.train_base).train()
    trainable = ControlledUNet(controlnet, unet) if config.train_base else controlnet
    trained = count(trainable, trained=True)
    parameters = base.parameters() | {"controlnet": count(controlnet)} | adapter
    for module in (controlnet, unet):
        cast_weights(module, dtype)
    size = (config.train_batch_size, controlnet.config.conditioning_channels, config.height, config.width)
    condition = torch.empty(size, dtype=dtype, device="meta")
    inputs = base.inputs(config, dtype)
    notes = [f"predicts {base.objective.prediction_type}", *_cache_notes(base, config, True, num_records)]
    activations = None
    if measure:
        activations = measure_activations(
            lambda: _denoise(controlnet, unet, *inputs, condition), [controlnet, unet], config.gradient_checkpointing
        )
    return StagePlan(
        name="mask2img",
        parameters=parameters,
        trained=trained,
        shapes=base.shapes(config) | {"condition": tuple(condition.shape)},
        steps=config.max_train_steps,
        samples_per_step=config.train_batch_size * config.gradient_accumulation_steps * processes,
        memory=_training_memory(config, trained, count(unet) + count(controlnet) - trained, activations, processes),
        notes=notes,
    )


def plan_segmenter(config: SegmenterConfig, labels, processes: int = 1) -> StagePlan:
    """The dry run of the segmenter's training. Raises: `ValueError` for what the training would refuse."""
    settings = hub_config(config.model) or find_config(config.model, config.model_revision)[0]
    settings.id2label, settings.label2id = labels.id2label, labels.label2id
    settings.num_queries = config.num_queries or settings.num_queries
    with torch.device("meta"):
        model = Mask2FormerForUniversalSegmentation(settings)
    trained = count(model)
    batch = config.train_batch_size
    quarter = (-(-config.crop_height // 4), -(-config.crop_width // 4))
    queries = model.config.num_queries
    memory = _training_memory(config, trained, 0, None, processes)
    notes = ["activations are not estimated: the deformable attention does not run on meta"]
    if config.crop_height % SIZE_DIVISOR or config.crop_width % SIZE_DIVISOR:
        notes.append(f"the crop is no multiple of {SIZE_DIVISOR}: inference pads to one, training does not")
    return StagePlan(
        name="segmenter",
        parameters={
            "backbone": count(model.model.pixel_level_module.encoder),
            "pixel decoder": count(model.model.pixel_level_module.decoder),
            "transformer": count(model.model.transformer_module),
            "class head": count(model.class_predictor),
        },
        trained=trained,
        shapes={
            "pixel values": (batch, 3, config.crop_height, config.crop_width),
            "class logits": (batch, queries, labels.num_labels + 1),
            "mask logits": (batch, queries, *quarter),
        },
        steps=config.max_train_steps,
        samples_per_step=batch * config.gradient_accumulation_steps * processes,
        memory=memory,
        notes=notes,
    )


def plan_recipe(
    recipe, labels, num_records: int | None = None, processes: int = 1, measure: bool = True
) -> list[StagePlan]:
    """The dry runs of all three trainings of a recipe. Raises: `ValueError` naming the section that is wrong."""
    plans = []
    for section, plan in (
        ("text2mask", lambda: plan_text2mask(recipe.text2mask, num_records, processes, measure)),
        ("mask2img", lambda: plan_mask2img(recipe.mask2img, num_records, processes, measure, labels.num_labels)),
        ("segmenter", lambda: plan_segmenter(recipe.segmenter, labels, processes)),
    ):
        try:
            plans.append(plan())
        except ValueError as error:
            raise ValueError(f"{recipe.name}, section {section}: {error}") from None
    return plans
