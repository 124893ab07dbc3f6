import numpy as np
import pytest
import torch

from seggen_hf.data.scenes.records import draw_scene
from seggen_hf.miniature.architecture import build_miniature
from seggen_hf.miniature.drawings import draw_shapes
from seggen_hf.miniature.patch_code import fit_patch_code, write_patch_encoder


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.asarray(draw_scene(1, i).image) for i in range(24)] + [draw_shapes(rng) for _ in range(24)]


def to_pixels(pictures: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_the_written_encoder_gives_the_code_also_from_fp16_weights(pictures):
    vae = build_miniature("quickstart")["vae"]
    code = fit_patch_code(pictures, vae.config.latent_channels)
    write_patch_encoder(vae, code)
    pixels = to_pixels(pictures[::6])
    with torch.no_grad():
        written = vae.encode(pixels).latent_dist
        vae.encoder.half().float()
        stored = vae.encode(pixels).latent_dist.mean
    assert (written.mean - code.encode(pixels)).abs().max() < 1e-2
    assert torch.equal(written.mean, stored)
    assert written.std.max() < 1e-3


def test_all_components_rebuild_the_patches_and_fewer_lose_the_least_variance(pictures):
    pixels = to_pixels(pictures)
    full = fit_patch_code(pictures, 48)
    patches = (
        np.linalg.pinv(full.basis.astype(np.float64)).T @ full.encode(pixels).permute(1, 0, 2, 3).flatten(1).numpy()
    )
    direct = pixels.reshape(len(pixels), 3, 16, 4, 16, 4).permute(3, 5, 1, 0, 2, 4).reshape(48, -1).numpy()
    np.testing.assert_allclose(patches + full.mean[:, None], direct, atol=2e-3)
    variances = full.encode(pixels).var((0, 2, 3))
    assert torch.all(variances[:-1] >= variances[1:] - 1e-4)


def test_a_code_that_does_not_fit_is_refused(pictures):
    vae = build_miniature("unit")["vae"]
    with pytest.raises(ValueError, match="does not fit"):
        write_patch_encoder(vae, fit_patch_code(pictures, 24))


def test_drawings_follow_from_their_generator_and_are_flat():
    first, again = (draw_shapes(np.random.default_rng(3), (48, 80)) for _ in range(2))
    assert first.shape == (48, 80, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert len(np.unique(first.reshape(-1, 3), axis=0)) <= 12
