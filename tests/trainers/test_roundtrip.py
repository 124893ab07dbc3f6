"""The report on what a VAE costs."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from seggen_hf import ColormapCodec, LabelSet, roundtrip_report


@pytest.fixture(scope="module")
def vae(miniature_dir):
    return AutoencoderKL.from_pretrained(miniature_dir / "vae", use_safetensors=True)


class CarriesAll:
    """A VAE whose latents are the pixels: nothing is lost."""

    def __init__(self, like):
        self.config, self.device, self.dtype = like.config, torch.device("cpu"), torch.float32

    def encode(self, pixels):
        class Posterior:
            mode = staticmethod(lambda: pixels)

        return type("Encoded", (), {"latent_dist": Posterior})

    def decode(self, latents):
        return type("Decoded", (), {"sample": latents})


def test_a_lossless_vae_costs_nothing(vae, scene_records):
    report = roundtrip_report(CarriesAll(vae), scene_records, batch_size=3)
    assert report["mIoU"] == report["pixel_accuracy"] == 1 and report["mean_distance"] < 1e-3
    assert set(report["per_label"]) == set(LabelSet.from_records(scene_records).label2id)


def test_a_random_vae_costs_nearly_all(vae, scene_records):
    report = roundtrip_report(vae, scene_records, batch_size=3)
    assert report["num_records"] == len(scene_records)
    assert 0 <= report["mIoU"] < 0.5
    assert 0 < report["mean_distance"] <= report["p99_distance"] <= 443


def test_the_report_does_not_depend_on_the_batch_size(vae, scene_records):
    codec = ColormapCodec(LabelSet.from_records(scene_records))
    one, many = (roundtrip_report(vae, scene_records, codec, size, max_records=4) for size in (1, 4))
    assert one["mIoU"] == pytest.approx(many["mIoU"], abs=1e-3)
    assert one["mean_distance"] == pytest.approx(many["mean_distance"], rel=1e-4)


def test_odd_sizes_are_cut_to_what_the_vae_can_make(vae, scene_records):
    report = roundtrip_report(CarriesAll(vae), scene_records, height=27, width=35, max_records=2)
    assert report["mIoU"] == 1 and np.isfinite(report["mean_distance"])
    with pytest.raises(ValueError, match="no records"):
        roundtrip_report(vae, scene_records, max_records=0)
