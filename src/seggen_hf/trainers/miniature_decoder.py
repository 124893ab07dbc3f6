"""The miniature base's autoencoder: an encoder in closed form, and the training of its decoder."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL

from ..data.scenes.records import STYLES, draw_scene
from ..miniature.architecture import build_miniature
from ..miniature.drawings import draw_shapes
from ..miniature.patch_code import PatchCode, fit_patch_code, write_patch_encoder
from ..pictures.grid import save_grid
from ..pictures.spacing import spread
from .miniature_config import BaseConfig, base_words, draw_generator, psnr, to_pixels, to_uint8
from .prior_pictures import PRIOR_SEED, PriorPictures

CODE_PICTURES = 3000  # that the patch code is fitted to
NUM_SHOWN = 64  # pictures of each kind that a validation measures
FLAT_SHARE = 0.5  # of what the decoder sees: it must carry color maps


class DecoderTask:
    """Latents of the fixed patch code -> pixels: L1 + 0.5 MSE + 0.5 L1 of the gradients, on lightly noised latents."""

    num_records = 0  # it draws its batches itself

    def __init__(self, config: BaseConfig, pictures: PriorPictures):
        self.config = config
        self.num_flat = pictures.num_flat
        self.images = torch.from_numpy(pictures.first(self.num_flat + config.num_decoder_scenes))
        components = build_miniature(config.size, base_words(), seed=config.seed)
        self.vae: Any = components["vae"]  # AutoencoderKL; diffusers declares None for parts that it has
        # Drawings in any colors and scenes, both as often as the prior sees them.
        seen = self.images[pictures.num_palettes :]
        fitted = spread(len(seen), CODE_PICTURES)
        self.code: PatchCode = fit_patch_code((seen[i].numpy() for i in fitted), self.vae.config["latent_channels"])
        write_patch_encoder(self.vae, self.code)
        for name, parameter in self.vae.decoder.named_parameters():
            if ".conv2." in name:  # residual branches start silent: the first steps are stable at a high rate
                torch.nn.init.zeros_(parameter)
        self.vae.requires_grad_(False)
        self.trainable = torch.nn.ModuleDict(
            {"post_quant_conv": self.vae.post_quant_conv, "decoder": self.vae.decoder}
        )
        self.trainable.requires_grad_(True)
        trainable: Any = self.trainable  # torch declares this for single tensors alone
        trainable.to(memory_format=torch.channels_last)

    def facts(self) -> dict:
        return {"task": "decoder", "pictures": len(self.images), "flat": self.num_flat}

    def start_from(self, vae: AutoencoderKL) -> None:
        """Take the weights of an earlier decoder.

        Raises:
            ValueError: it decodes another patch code, or has another shape.
        """
        ours, theirs = (torch.cat([p.flatten() for p in m.encoder.parameters()]) for m in (self.vae, vae))
        if ours.shape != theirs.shape or (ours - theirs).abs().max() > 1e-2:
            raise ValueError("The earlier base was trained on another patch code; leave --warm_start out.")
        for name, part in self.trainable.named_children():
            part.load_state_dict(vae.get_submodule(name).state_dict())

    def parameter_groups(self) -> list[dict]:
        return [{"params": list(self.trainable.parameters()), "lr": self.config.learning_rate}]

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        self.vae.to(device)
        if device.type != "cpu":  # on a CPU they stay in the file
            self.images = self.images.to(device)

    def draw(self, number: int) -> dict:
        device, size = self.images.device, self.config.train_batch_size
        generator = draw_generator(self.config.seed, number, device)
        uniform = lambda *shape: torch.rand(*shape, generator=generator, device=device)  # noqa: E731
        flat, num_scenes = uniform(size) < FLAT_SHARE, len(self.images) - self.num_flat
        index = torch.where(flat, uniform(size) * self.num_flat, self.num_flat + uniform(size) * num_scenes).long()
        amount = self.config.latent_noise * uniform(size, 1, 1, 1) * (uniform(size, 1, 1, 1) < 0.5)
        pixels = to_pixels(self.images, index, uniform(size) < 0.5)
        latents = self.code.encode(pixels)
        noise = torch.randn(latents.shape, generator=generator, device=device)
        latents = latents + amount * noise * latents.std((0, 2, 3), keepdim=True)
        return {"pixels": pixels, "latents": latents.contiguous(memory_format=torch.channels_last)}

    def loss(self, module: Any, batch: dict) -> tuple[torch.Tensor, dict]:
        error = module["decoder"](module["post_quant_conv"](batch["latents"])) - batch["pixels"]
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        mse = error.square().mean()
        return error.abs().mean() + 0.5 * mse + 0.5 * edges, {"mse": mse.detach()}

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        rng = np.random.default_rng(PRIOR_SEED + 1)
        scenes = [np.asarray(draw_scene(PRIOR_SEED + 1, i, STYLES).image) for i in range(NUM_SHOWN)]
        shown = {"scenes": scenes, "drawings": [draw_shapes(rng) for _ in range(NUM_SHOWN)]}
        numbers = {}
        for name, pictures in shown.items():
            pixels = to_pixels(torch.from_numpy(np.stack(pictures)).to(self.vae.device))
            decoded = self.vae.decode(self.vae.encode(pixels).latent_dist.mean).sample
            numbers[f"psnr_{name}"] = psnr(decoded, pixels)
            save_grid([pictures[:12], to_uint8(decoded[:12])], folder / f"step-{step:08d}-{name}.png")
        return numbers

    def save(self, folder: Path) -> None:
        self.vae.save_pretrained(folder / "vae")
