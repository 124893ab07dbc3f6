"""The miniature base, from nothing: the decoder of its autoencoder, then text-to-image on unlabelled pictures.

The prior sees pictures and captions of the built-in scenes in all styles, and flat drawings of random shapes; it never
sees a segmentation map. That is the miniature's counterpart of SDXL's pre-training on the open web.
"""

import json
import os
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from tqdm.auto import tqdm

from ..config import TrainingConfig
from ..data.drawings import DRAWING_CAPTION, draw_shapes
from ..data.scenes import SCENE_WORDS, STYLES, draw_scene
from ..labels import LabelSet
from ..miniature import build_miniature
from ..patch_code import PATCH, PatchCode, fit_patch_code, write_patch_encoder
from ..pipelines import generate_palette
from .generator import save_grid
from .objective import DenoisingObjective

# Pictures of the prior are drawn from a seed of their own: none of them is in a labelled or test split.
PRIOR_SEED = 7_000_000
PALETTE_SIZES = (4, 6, 8, 11, 15, 19, 25, 34, 50)  # numbers of labels whose generated palettes the decoder sees


@dataclass(kw_only=True)
class BaseConfig(TrainingConfig):
    """Settings of both trainings of the miniature base."""

    size: str = field(default="quickstart", metadata={"help": "Size of the miniature; `unit` is for tests."})
    num_scenes: int = field(default=24_000, metadata={"help": "Unlabelled scenes with captions."})
    num_drawings: int = field(default=4_000, metadata={"help": "Flat drawings of random shapes."})
    caption_dropout: float = field(default=0.1, metadata={"help": "Share of captions emptied."})
    snr_gamma: float = field(default=5.0, metadata={"help": "Min-SNR loss weighting (arXiv:2303.09556)."})
    latent_noise: float = field(
        default=0.25, metadata={"help": "Largest noise on the decoder's latents, in channel sd."}
    )


def _draw(index: int) -> tuple[np.ndarray, str]:
    if index < 0:  # drawings have negative indices
        return draw_shapes(np.random.default_rng([PRIOR_SEED, -index])), DRAWING_CAPTION
    scene = draw_scene(PRIOR_SEED, index, STYLES)
    return np.asarray(scene.image), scene.caption


def draw_prior(folder: Path, num_scenes: int, num_drawings: int, processes: int = 2) -> tuple[np.ndarray, list[str]]:
    """Draw the prior's pictures once: a memory-mapped uint8 `(N, 64, 64, 3)`, scenes first, and N captions."""
    count = num_scenes + num_drawings
    images_file, captions_file = folder / f"prior-{num_scenes}-{num_drawings}.npy", folder / "captions.json"
    if not images_file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = images_file.with_name(images_file.name + ".tmp")
        images = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(count, 64, 64, 3))
        captions = []
        indices = [*range(num_scenes), *range(-1, -num_drawings - 1, -1)]
        with get_context("spawn").Pool(processes) as pool:
            for i, (image, caption) in enumerate(tqdm(pool.imap(_draw, indices, 64), total=count, desc="drawing")):
                images[i] = image
                captions.append(caption)
        images.flush()
        captions_file.write_text(json.dumps(captions))
        os.replace(temporary, images_file)
    return np.load(images_file, mmap_mode="r"), json.loads(captions_file.read_text())


def base_words() -> list[str]:
    """The words that are whole tokens: the scenes', and those of the label sets that ship with the package."""
    names = [name for kind in ("ade20k", "coco") for name in LabelSet.builtin(kind).id2label.values()]
    return [*SCENE_WORDS, DRAWING_CAPTION, *names, "a photo of"]


def _picture(images: np.ndarray, index: int, flip: bool) -> torch.Tensor:
    """One picture as float `(3, H, W)` in [-1, 1]."""
    picture = images[index][:, ::-1] if flip else images[index]
    return torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 127.5 - 1


def to_uint8(pixels: torch.Tensor) -> list[np.ndarray]:
    """`(B, 3, H, W)` in [-1, 1] -> uint8 `(H, W, 3)` arrays."""
    return list(((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())


def draw_samples(pipeline: StableDiffusionXLPipeline, path: Path, size: tuple[int, int] = (64, 64)) -> None:
    """Write what `pipeline` draws for 24 captions of new scenes, each row above the scenes themselves."""
    scenes = [draw_scene(PRIOR_SEED + 1, i, STYLES, size) for i in range(24)]
    pipeline.set_progress_bar_config(disable=True)
    pictures = pipeline(
        [scene.caption for scene in scenes],
        height=size[0],
        width=size[1],
        num_inference_steps=20,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(i) for i in range(24)],
        output_type="np",
    ).images
    drawn, real = list((pictures * 255).round().astype(np.uint8)), [np.asarray(scene.image) for scene in scenes]
    save_grid([row for start in (0, 12) for row in (drawn[start : start + 12], real[start : start + 12])], path)


class DecoderTask:
    """Latents of the fixed patch code -> pixels: L1 + 0.5 MSE + 0.5 L1 of the gradients, on lightly noised latents."""

    def __init__(self, config: BaseConfig, images: np.ndarray):
        self.config, self.images = config, images
        self.num_scenes = config.num_scenes
        self.num_records = len(images)
        self.components = build_miniature(config.size, base_words(), seed=config.seed)
        self.vae: AutoencoderKL = self.components["vae"]
        self.code: PatchCode = fit_patch_code(
            (images[i] for i in np.linspace(0, len(images) - 1, 3000).astype(int)), self.vae.config.latent_channels
        )
        write_patch_encoder(self.vae, self.code)
        for name, parameter in self.vae.decoder.named_parameters():
            if ".conv2." in name:  # residual branches start silent: the first steps are stable at a high rate
                torch.nn.init.zeros_(parameter)
        self.palettes = [np.array(generate_palette(n).colors) for n in PALETTE_SIZES]
        self.vae.requires_grad_(False)
        self.trainable = torch.nn.ModuleDict(
            {"post_quant_conv": self.vae.post_quant_conv, "decoder": self.vae.decoder}
        )
        self.trainable.requires_grad_(True)
        self.trainable.to(memory_format=torch.channels_last)

    def facts(self) -> dict:
        return {"task": "decoder", "records": self.num_records}

    def start_from(self, vae: AutoencoderKL) -> None:
        """Take the weights of an earlier decoder.

        Raises:
            ValueError: it decodes another patch code, or has another shape.
        """
        ours, theirs = (torch.cat([p.flatten() for p in m.encoder.parameters()]) for m in (self.vae, vae))
        if ours.shape != theirs.shape or (ours - theirs).abs().max() > 1e-2:
            raise ValueError("The earlier base was trained on another patch code; leave --warm_start out.")
        self.vae.decoder.load_state_dict(vae.decoder.state_dict())
        self.vae.post_quant_conv.load_state_dict(vae.post_quant_conv.state_dict())

    def parameter_groups(self) -> list[dict]:
        return [{"params": list(self.trainable.parameters()), "lr": self.config.learning_rate}]

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        self.vae.to(device)

    def sample(self, index: int, rng: np.random.Generator, step: int) -> dict:
        if rng.random() < 0.5:  # half of what the decoder sees is flat: it must carry color maps
            # Palettes have colors midway between others: a blurred edge there names a label that is not in the map.
            palette = self.palettes[int(rng.integers(len(self.palettes)))] if rng.random() < 0.7 else None
            pixels = torch.from_numpy(draw_shapes(rng, palette=palette).copy()).permute(2, 0, 1).float() / 127.5 - 1
        else:
            pixels = _picture(self.images, index % self.num_scenes, rng.random() < 0.5)
        noise = self.config.latent_noise * rng.random() * (rng.random() < 0.5)
        shape = (self.code.num_channels, pixels.shape[1] // 4, pixels.shape[2] // 4)
        return {
            "pixels": pixels,
            "noise": torch.from_numpy(noise * rng.standard_normal(shape, dtype=np.float32)).float(),
        }

    def collate(self, samples: list[dict]) -> dict:
        return {key: torch.stack([s[key] for s in samples]) for key in samples[0]}

    def loss(self, module: torch.nn.Module, batch: dict) -> tuple[torch.Tensor, dict]:
        pixels = batch["pixels"]
        with torch.no_grad():
            latents = self.code.encode(pixels)
            latents = latents + batch["noise"] * latents.std((0, 2, 3), keepdim=True)
        latents = latents.contiguous(memory_format=torch.channels_last)
        decoded = module["decoder"](module["post_quant_conv"](latents))
        error = decoded - pixels
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        mse = error.square().mean()
        return error.abs().mean() + 0.5 * mse + 0.5 * edges, {"mse": mse.detach()}

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        scenes = [draw_scene(PRIOR_SEED + 1, i, STYLES) for i in range(64)]
        pixels = torch.stack([_picture(np.asarray(s.image)[None], 0, False) for s in scenes])
        rng = np.random.default_rng(PRIOR_SEED + 1)
        drawings = torch.stack([_picture(draw_shapes(rng)[None], 0, False) for _ in range(64)])
        numbers = {}
        for name, batch in (("scenes", pixels), ("drawings", drawings)):
            batch = batch.to(self.vae.device)
            decoded = self.vae.decode(self.vae.encode(batch).latent_dist.mean).sample.clamp(-1, 1)
            numbers[f"psnr_{name}"] = float(-10 * torch.log10(((decoded - batch) / 2).square().mean()))
            save_grid([to_uint8(batch[:12]), to_uint8(decoded[:12])], folder / f"step-{step:08d}-{name}.png")
        return numbers

    def save(self, folder: Path) -> None:
        self.vae.save_pretrained(folder / "vae")


class BaseTask:
    """Caption -> latents: the U-Net and both text encoders, predicting x0."""

    def __init__(
        self,
        config: BaseConfig,
        images: np.ndarray,
        captions: list[str],
        vae: AutoencoderKL,
        code: PatchCode,
        cache: Path,
    ):
        self.config, self.captions = config, captions
        self.num_records = len(images)
        self.components = build_miniature(config.size, base_words(), seed=config.seed) | {"vae": vae.eval()}
        self.latents = self._encode(images, code, cache)
        self.trainable = torch.nn.ModuleDict(
            {k: self.components[k] for k in ("unet", "text_encoder", "text_encoder_2")}
        )
        self.trainable.requires_grad_(True)
        self.trainable["unet"].to(memory_format=torch.channels_last)
        # The last layer of the first text encoder and the norm behind it feed nothing: SDXL reads the layer before.
        unused = self.trainable["text_encoder"]
        for module in (unused.encoder.layers[-1], unused.final_layer_norm):
            module.requires_grad_(False)
        self.objective = DenoisingObjective(self.components["scheduler"].config, config.snr_gamma)
        tokenizer = self.components["tokenizer"]
        options = dict(padding="max_length", max_length=tokenizer.model_max_length, truncation=True)
        self.input_ids = tokenizer(captions, **options)["input_ids"]

    @staticmethod
    def _encode(images: np.ndarray, code: PatchCode, path: Path) -> np.ndarray:
        """Latents of every picture and its mirror image: memory-mapped fp16 `(N, 2, K, 16, 16)`."""
        if not path.is_file():
            height, width = (side // PATCH for side in images.shape[1:3])
            temporary = path.with_name(path.name + ".tmp")
            shape = (len(images), 2, code.num_channels, height, width)
            latents = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
            for start in tqdm(range(0, len(images), 64), desc="encoding"):
                indices = range(start, min(start + 64, len(images)))
                for flip in range(2):
                    pixels = torch.stack([_picture(images, i, bool(flip)) for i in indices])
                    latents[indices.start : indices.stop, flip] = code.encode(pixels).numpy()
            latents.flush()
            os.replace(temporary, path)
        return np.load(path, mmap_mode="r")

    def facts(self) -> dict:
        return {"task": "base", "records": self.num_records}

    def start_from(self, pipeline: StableDiffusionXLPipeline) -> None:
        """Take the weights of an earlier base with the same words.

        Raises:
            ValueError: its tokenizer numbers words otherwise.
        """
        if pipeline.tokenizer.get_vocab() != self.components["tokenizer"].get_vocab():
            raise ValueError("The earlier base knows other words; leave --warm_start out.")
        for name, module in self.trainable.items():
            module.load_state_dict(getattr(pipeline, name).state_dict())

    def parameter_groups(self) -> list[dict]:
        parameters = [p for p in self.trainable.parameters() if p.requires_grad]
        return [{"params": parameters, "lr": self.config.learning_rate}]

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        self.trainable.to(device)
        self.components["vae"].to(device)  # it decodes the samples

    def sample(self, index: int, rng: np.random.Generator, step: int) -> dict:
        latents = torch.from_numpy(self.latents[index, int(rng.random() < 0.5)].astype(np.float32))
        size = [float(PATCH * side) for side in latents.shape[-2:]]
        return {
            "latents": latents,
            "noise": torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32)),
            "timestep": torch.tensor(int(rng.integers(self.objective.num_timesteps))),
            "input_ids": torch.tensor(self.input_ids[index]),
            "dropped": torch.tensor(rng.random() < self.config.caption_dropout),
            "time_ids": torch.tensor([*size, 0.0, 0.0, *size]),
        }

    def collate(self, samples: list[dict]) -> dict:
        return {key: torch.stack([s[key] for s in samples]) for key in samples[0]}

    def loss(self, module: torch.nn.Module, batch: dict) -> tuple[torch.Tensor, dict]:
        latents, timesteps = batch["latents"], batch["timestep"]
        first = module["text_encoder"](batch["input_ids"], output_hidden_states=True)
        second = module["text_encoder_2"](batch["input_ids"], output_hidden_states=True)
        embeddings = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
        kept = ~batch["dropped"]  # the pipeline gives zeros for an empty negative prompt: so does training
        embeddings, pooled = embeddings * kept[:, None, None], second.text_embeds * kept[:, None]
        noisy = self.objective.add_noise(latents, batch["noise"], timesteps)
        predicted = module["unet"](
            noisy.contiguous(memory_format=torch.channels_last),
            timesteps,
            encoder_hidden_states=embeddings,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": batch["time_ids"]},
        ).sample
        loss, plain = self.objective.loss(predicted, latents, batch["noise"], timesteps)
        return loss, {"x0_mse": plain.detach()}

    def pipeline(self) -> StableDiffusionXLPipeline:
        return StableDiffusionXLPipeline(**self.components, add_watermarker=False)

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        size = tuple(PATCH * side for side in self.latents.shape[-2:])
        draw_samples(self.pipeline(), folder / f"step-{step:08d}.png", size)
        return {}

    def save(self, folder: Path) -> None:
        self.pipeline().save_pretrained(folder / "pipeline")
