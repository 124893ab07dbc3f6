"""Denoising objectives: the base's own noise schedule and prediction type, plain or min-SNR; flow matching."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from ..config import PREDICTION_TYPES
from ..networks.modules import from_config


def min_snr_weights(snr: torch.Tensor, gamma: float, prediction_type: str, zero_terminal: bool = False):
    """Weights of the squared error at each sample's signal-to-noise ratio (min-SNR, arXiv:2303.09556).

    In terms of the error of x0 the weight is min(snr, gamma); the error of epsilon is snr times, that of v (snr + 1)
    times the error of x0. Where the schedule ends in pure noise (snr 0) that would leave the first step of every
    sampling untrained, so there min(snr + 1, gamma) takes its place, the same truncation of the v-prediction loss;
    epsilon, which says nothing about x0 at snr 0, keeps min(1, gamma / snr).

    Args:
        snr (`torch.Tensor` of shape `(batch,)`): alpha_bar / (1 - alpha_bar), 0 or more, float32.
        zero_terminal (`bool`): the schedule has a step with snr 0.

    Returns: float32 `(batch,)`, finite.
    """
    truncated = (snr + 1 if zero_terminal else snr).clamp(max=gamma)
    if prediction_type == "sample":
        return truncated
    if prediction_type == "v_prediction":
        return truncated / (snr + 1)
    return (gamma / snr.clamp(min=1e-12)).clamp(max=1.0)


class DenoisingObjective:
    """Noise in, target and loss out, for the schedule that the base's scheduler describes."""

    def __init__(self, scheduler_config: Mapping, snr_gamma: float = 0.0):
        prediction_type = scheduler_config.get("prediction_type", "epsilon")
        if "beta_start" not in scheduler_config or prediction_type not in PREDICTION_TYPES:  # EDM, flow matching
            raise ValueError(
                f"The base's scheduler ({scheduler_config.get('_class_name', 'unnamed')}, prediction_type "
                f"{prediction_type!r}) is none that the trainings know: they need a variance-preserving schedule "
                f"(beta_start, beta_end) and one of {PREDICTION_TYPES}."
            )
        self.schedule: Any = from_config(DDPMScheduler, scheduler_config)  # it declares narrower tensors than it takes
        self.prediction_type, self.snr_gamma = prediction_type, snr_gamma
        self.num_timesteps: int = self.schedule.config.num_train_timesteps
        alphas = self.schedule.alphas_cumprod.double()
        # Not by diffusers' compute_snr: single precision, and a copy of the schedule to the device in every step.
        self._snr = (alphas / (1 - alphas)).float()
        self._zero_terminal = bool(alphas[-1] <= 1e-9)

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """sqrt(alpha_bar) latents + sqrt(1 - alpha_bar) noise; `(batch, channels, h, w)` float32, `(batch,)` int64."""
        return self.schedule.add_noise(latents, noise, timesteps)

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What the network should say: the noise, v, or the latents."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return latents
        return self.schedule.get_velocity(latents, noise, timesteps)

    def loss(self, prediction, latents, noise, timesteps) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted loss and plain squared error, each the mean over the batch; scalars, float32."""
        target = self.target(latents, noise, timesteps)
        errors = (prediction.float() - target.float()).square().flatten(1).mean(1)  # (batch,)
        plain = errors.mean()
        if self.snr_gamma == 0:
            return plain, plain
        self._snr = self._snr.to(timesteps.device)  # stays there, as the schedule does: a copy waits for the device
        snr = self._snr[timesteps]
        weights = min_snr_weights(snr, self.snr_gamma, self.prediction_type, self._zero_terminal)
        return (weights * errors).mean(), plain


class FlowObjective:
    """Flow matching (arXiv:2210.02747) on the line from latents to noise, with the sigmas of the base's scheduler.

    Timestep k of 0 .. num_timesteps - 1 has the k-th sigma, rising to 1; one shift for all sizes is the scheduler's
    own, one that depends on the size is of sampling alone.
    """

    prediction_type = "velocity"

    def __init__(self, scheduler_config: Mapping):
        if "shift" not in scheduler_config:
            raise ValueError(
                f"The base's scheduler ({scheduler_config.get('_class_name', 'unnamed')}) is none of flow matching."
            )
        scheduler: Any = from_config(FlowMatchEulerDiscreteScheduler, scheduler_config)
        self._sigmas = scheduler.sigmas.flip(0).float()
        self.num_timesteps: int = len(self._sigmas)

    def sigma(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Shares of noise, float32, in the shape and on the device of `timesteps`."""
        self._sigmas = self._sigmas.to(timesteps.device)  # stays there: a copy waits for the device
        return self._sigmas[timesteps]

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """(1 - sigma) latents + sigma noise; `(batch, channels, h, w)` float32, `(batch,)` int64."""
        sigma = self.sigma(timesteps).view(-1, 1, 1, 1)
        return (1 - sigma) * latents + sigma * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What the network should say: where the line leads."""
        return noise - latents

    def loss(self, prediction, latents, noise, timesteps) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared error, the mean over the batch, twice: nothing is weighted. Scalars, float32."""
        target = self.target(latents, noise, timesteps)
        plain = (prediction.float() - target.float()).square().flatten(1).mean(1).mean()
        return plain, plain
