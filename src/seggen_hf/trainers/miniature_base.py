"""The miniature base's prior: text-to-image on unlabelled pictures with captions.

It sees pictures and captions of the built-in scenes in all styles, and flat drawings of random shapes; it never sees a
segmentation map. That is the miniature's counterpart of SDXL's pre-training on the open web.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline

from ..data.scenes.records import STYLES, draw_scene
from ..miniature.architecture import build_miniature
from ..miniature.patch_code import PatchCode
from ..pictures.grid import save_grid
from .miniature_config import BaseConfig, base_words, draw_generator, to_pixels
from .objective import DenoisingObjective
from .prior_pictures import PRIOR_SEED, PriorPictures

# Timesteps are drawn from a logit-normal density (arXiv:2403.03206), a share of them evenly: on the cosine schedule
# its middle lies where things take shape. Colors are learnt early, and the last noise is easily removed.
TIMESTEP_MEAN, EVEN_SHARE = 0.2, 0.1


def draw_samples(pipeline: StableDiffusionXLPipeline, path: Path, size: tuple[int, int] = (64, 64)) -> None:
    """Write what `pipeline` draws for 24 captions of new scenes, each row above the scenes themselves."""
    scenes = [draw_scene(PRIOR_SEED + 1, i, STYLES, size) for i in range(24)]
    pipeline.set_progress_bar_config(disable=True)
    drawing: Any = pipeline(
        [scene.caption for scene in scenes],
        height=size[0],
        width=size[1],
        num_inference_steps=20,
        guidance_scale=2.0,
        generator=[torch.Generator().manual_seed(i) for i in range(24)],
        output_type="np",
    )
    drawn, real = list((drawing.images * 255).round().astype(np.uint8)), [np.asarray(scene.image) for scene in scenes]
    save_grid([row for start in (0, 12) for row in (drawn[start : start + 12], real[start : start + 12])], path)


class BaseTask:
    """Caption -> latents: the U-Net and both text encoders, all trained."""

    num_records = 0  # it draws its batches itself

    def __init__(self, config: BaseConfig, pictures: PriorPictures, vae: AutoencoderKL, code: PatchCode):
        self.config, self.code = config, code
        # The palettes of data sets are for the decoder; the prior sees flat drawings in any colors.
        self.images = torch.from_numpy(pictures.first()[pictures.num_palettes :])
        captions = pictures.captions[pictures.num_palettes :]
        self.components: dict[str, Any] = build_miniature(config.size, base_words(), seed=config.seed) | {
            "vae": vae.eval()
        }
        self.trainable = torch.nn.ModuleDict(
            {k: self.components[k] for k in ("unet", "text_encoder", "text_encoder_2")}
        )
        self.trainable.requires_grad_(True)
        # The last layer of the first text encoder and the norm behind it feed nothing: SDXL reads the layer before.
        unused = self.components["text_encoder"]
        for module in (unused.encoder.layers[-1], unused.final_layer_norm):
            module.requires_grad_(False)
        self.objective = DenoisingObjective(self.components["scheduler"].config, config.snr_gamma)
        tokenizer = self.components["tokenizer"]
        options = dict(padding="max_length", max_length=tokenizer.model_max_length, truncation=True)
        self.input_ids = torch.tensor(tokenizer(captions, **options)["input_ids"])
        height, width = (float(side) for side in self.images.shape[1:3])
        self.time_ids = torch.tensor([height, width, 0.0, 0.0, height, width])

    def facts(self) -> dict:
        return {"task": "base", "pictures": len(self.images)}

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
        self.time_ids, self.input_ids = self.time_ids.to(device), self.input_ids.to(device)
        if device.type != "cpu":  # on a CPU they stay in the file
            self.images = self.images.to(device)

    def draw(self, number: int) -> dict:
        device, size = self.images.device, self.config.train_batch_size
        generator = draw_generator(self.config.seed, number, device)
        uniform = lambda: torch.rand(size, generator=generator, device=device)  # noqa: E731
        index = (uniform() * len(self.images)).long()
        latents = self.code.encode(to_pixels(self.images, index, uniform() < 0.5))
        middle = torch.sigmoid(TIMESTEP_MEAN + torch.randn(size, generator=generator, device=device))
        place = torch.where(uniform() < EVEN_SHARE, uniform(), middle).clamp(max=1 - 1e-6)
        return {
            "latents": latents,
            "noise": torch.randn(latents.shape, generator=generator, device=device),
            "timestep": (place * self.objective.num_timesteps).long(),
            "input_ids": self.input_ids[index],
            # The pipeline gives zeros for an empty negative prompt: so does training.
            "kept": uniform() >= self.config.caption_dropout,
            "time_ids": self.time_ids.expand(size, -1),
        }

    def loss(self, module: Any, batch: dict) -> tuple[torch.Tensor, dict]:
        latents, timesteps, kept = batch["latents"], batch["timestep"], batch["kept"]
        first = module["text_encoder"](batch["input_ids"], output_hidden_states=True)
        second = module["text_encoder_2"](batch["input_ids"], output_hidden_states=True)
        embeddings = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
        embeddings, pooled = embeddings * kept[:, None, None], second.text_embeds * kept[:, None]
        noisy = self.objective.add_noise(latents, batch["noise"], timesteps)
        predicted = module["unet"](
            noisy,
            timesteps,
            encoder_hidden_states=embeddings,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": batch["time_ids"]},
        ).sample
        loss, plain = self.objective.loss(predicted, latents, batch["noise"], timesteps)
        return loss, {"mse": plain.detach()}

    def pipeline(self) -> StableDiffusionXLPipeline:
        return StableDiffusionXLPipeline(**self.components, add_watermarker=False)

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        draw_samples(self.pipeline(), folder / f"step-{step:08d}.png", (self.images.shape[1], self.images.shape[2]))
        return {}

    def save(self, folder: Path) -> None:
        self.pipeline().save_pretrained(folder / "pipeline")
