"""What a VAE costs: labels -> color map -> latents -> color map -> labels, scored before any training."""

from collections.abc import Iterator

import numpy as np
import torch
from tqdm.auto import tqdm

from seggen_hf.pipelines import ColormapCodec, encode_condition, resize_nearest

from ..data.schema import labels_of, read_map
from ..metrics import MeanIoU


@torch.no_grad()
def roundtrip_report(
    vae,
    records,
    codec: ColormapCodec | None = None,
    batch_size: int = 8,
    height: int | None = None,
    width: int | None = None,
    max_records: int | None = None,
) -> dict:
    """Score encode -> VAE -> decode of the records' maps: the best that Text2Mask can reach with this VAE.

    Args:
        vae (`AutoencoderKL`): runs where it is and in its dtype; latents are the mode, so nothing is random.
        records (`datasets.Dataset`): with `segmentation_map`, labels attached.
        codec (`ColormapCodec`, optional): default: the generated palette of the records' labels.
        height, width (`int`, optional): nearest resize before encoding; default: each map's own size, rounded down to
            what the VAE can make.
        max_records (`int`, optional): only the first records.
    Returns: `dict` with `mIoU`, `pixel_accuracy`, `per_label` ({name: IoU or None if absent}), `mean_distance` and
        `p99_distance` (of decoded pixels to their label's color, 0-255 RGB units), `least_distance` (of the palette),
        `num_records`.
    """
    codec = ColormapCodec(labels_of(records)) if codec is None else codec
    if max_records is not None:
        records = records.select(range(min(max_records, len(records))))
    if len(records) == 0:
        raise ValueError("roundtrip_report was given no records; choose another split.")
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    metric = MeanIoU(codec.num_labels, codec.ignore_index)
    histogram = np.zeros(443, dtype=np.int64)  # of distances rounded down; the RGB cube's diagonal is 441.7 units
    total_distance = 0.0
    for maps in _batches(records, batch_size, height, width, factor):
        rgb = encode_condition(codec, maps, *maps[0].shape)  # (B, 3, H, W) in [0, 1]
        latents = vae.encode((2 * rgb - 1).to(vae.device, vae.dtype)).latent_dist.mode()
        decoded = ((vae.decode(latents).sample.float() + 1) / 2).clamp(0, 1).cpu()
        result = codec.decode(decoded)
        metric.update(result.segmentation_map.numpy(), np.stack(maps))
        distance = result.distance.numpy()
        total_distance += float(distance.sum(dtype=np.float64))
        histogram += np.bincount(distance.astype(np.int64).reshape(-1), minlength=len(histogram))
    scores = metric.compute()
    num_pixels = int(histogram.sum())
    return {
        "mIoU": scores["mIoU"],
        "pixel_accuracy": scores["pixel_accuracy"],
        "per_label": {codec.id2label[id]: value for id, value in scores["per_label"].items()},
        "mean_distance": total_distance / num_pixels,
        "p99_distance": float(np.searchsorted(histogram.cumsum(), 0.99 * num_pixels) + 1),
        "least_distance": codec.least_distance,
        "num_records": len(records),
    }


def _batches(records, batch_size, height, width, factor) -> Iterator[list[np.ndarray]]:
    """Lists of up to `batch_size` consecutive maps of one size, resized to what the VAE can make."""
    batch = []
    for value in tqdm(records.select_columns("segmentation_map"), desc="VAE round trip", leave=False):
        full = read_map(value["segmentation_map"])
        target = [(size or own) // factor * factor for size, own in zip((height, width), full.shape, strict=True)]
        small = resize_nearest(full, *target)
        if batch and (len(batch) == batch_size or batch[0].shape != small.shape):
            yield batch
            batch = []
        batch.append(small)
    if batch:
        yield batch
