"""Which record a segmenter trains on next, real or synthetic, and its decoded pixels."""

import functools

import numpy as np

from ..config import SegmenterConfig
from .schema import read_image, read_map, read_panoptic

CACHE_BYTES = 1_000_000_000  # of decoded records, in each process that prepares samples
STEPS_PER_WINDOW = 100  # that random draws stay in one window; not of samples, so that processes make no difference


class DecodedRecords:
    """Images (uint8 RGB) and maps of `records`, decoded once and kept as long as they fit.

    The maps are segmentation maps, of a type that holds `ignore_index`, whatever ids a map has, since augmentation
    pads with it; or with `panoptic` segment ids, int32, 0 for void.
    """

    def __init__(self, records, ignore_index: int = 255, cache_bytes: int = CACHE_BYTES, panoptic: bool = False):
        self.records, self.panoptic, self.free, self.cache = records, panoptic, cache_bytes, {}
        self.dtype = np.min_scalar_type(ignore_index)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, list[dict] | None]:
        """Image, map, and the map's segments_info if it is panoptic."""
        if index in self.cache:
            return self.cache[index]
        row = self.records[index]
        if self.panoptic:
            found = read_image(row["image"]), read_panoptic(row["panoptic_map"]), row["segments_info"]
        else:
            found = read_image(row["image"]), read_map(row["segmentation_map"]).astype(self.dtype), None
        size = found[0].nbytes + found[1].nbytes
        if size <= self.free:
            self.free -= size
            self.cache[index] = found
        return found


class RecordMixture:
    """Which record is trained on: real ones, synthetic ones, or both, as `config.synthetic_mode` says.

    `replace`: an epoch is the real records; with probability p_aug a synthetic one, drawn at random, takes the place.
    `pretrain`: synthetic records only, and after `synthetic_until` of the steps real ones only.
    `joint`: an epoch is all real and all synthetic records. `only`: an epoch is the synthetic records.
    In each mode no synthetic record is drawn after `synthetic_until` of the steps.

    Where `synthetic_weights` are given, random draws of synthetic records follow them.

    Where `windows` are given (`StreamedRecords.windows`), records that are read together are drawn near each other: an
    epoch goes through the windows in random order, each shuffled, and random draws come from one window for a while.
    """

    def __init__(
        self,
        num_real: int,
        num_synthetic: int,
        config: SegmenterConfig,
        real_windows: list[range] | None = None,
        synthetic_windows: list[range] | None = None,
        synthetic_weights: np.ndarray | None = None,
    ):
        if num_real + num_synthetic == 0:
            raise ValueError("There are no records to train on.")
        mode = config.synthetic_mode
        if num_synthetic == 0:
            if mode == "only" or config.synthetic_dataset:
                raise ValueError(f"--synthetic_dataset {config.synthetic_dataset} has no records.")
        elif num_real == 0 and (mode != "only" or config.synthetic_until < 1):
            raise ValueError(
                f"--synthetic_mode {mode} needs real records too; `only` with --synthetic_until 1 does not."
            )
        self.num_real, self.num_synthetic, self.mode, self.p_aug = num_real, num_synthetic, mode, config.p_aug
        self.real_windows, self.synthetic_windows, self.seed = real_windows, synthetic_windows, config.seed
        self.bounds = None if synthetic_weights is None else np.cumsum(synthetic_weights)
        self.last_step = config.synthetic_until * config.max_train_steps
        self.num_records = {
            "replace": num_real,
            "pretrain": num_real,
            "joint": num_real + num_synthetic,
            "only": num_synthetic,
        }[mode if num_synthetic else "replace"]

    def pick(self, index: int, rng: np.random.Generator, step: int) -> tuple[bool, int]:
        """Whether the sample is synthetic, and its index in its data set. Three draws from `rng`, whatever comes."""
        chance, any_real, any_synthetic = rng.random(3)
        any_real = self._place(any_real, self.num_real, self.real_windows, step)
        if self.bounds is None:
            any_synthetic = self._place(any_synthetic, self.num_synthetic, self.synthetic_windows, step)
        else:
            place = np.searchsorted(self.bounds, any_synthetic * self.bounds[-1], side="right")
            any_synthetic = min(int(place), self.num_synthetic - 1)
        if self.num_synthetic == 0:
            return False, index
        if step >= self.last_step:
            return False, index if self.mode in ("replace", "pretrain") else any_real
        if self.mode == "replace":
            return (True, any_synthetic) if chance < self.p_aug else (False, index)
        if self.mode == "pretrain":
            return True, any_synthetic
        if self.mode == "joint" and index < self.num_real:
            return False, index
        return True, index - (self.num_real if self.mode == "joint" else 0)

    def epoch_order(self, rng: np.random.Generator) -> np.ndarray:
        """A permutation of the epoch's indices."""
        if not self.real_windows and not self.synthetic_windows:
            return rng.permutation(self.num_records)
        if self.num_synthetic == 0 or self.mode in ("replace", "pretrain"):
            return shuffle_windows(self.num_real, self.real_windows, rng)
        synthetic = shuffle_windows(self.num_synthetic, self.synthetic_windows, rng)
        if self.mode == "only":
            return synthetic
        order = np.empty(self.num_records, np.int64)
        is_real = rng.permutation(self.num_records) < self.num_real
        order[is_real] = shuffle_windows(self.num_real, self.real_windows, rng)
        order[~is_real] = self.num_real + synthetic
        return order

    def _place(self, chance: float, num_records: int, windows: list[range] | None, step: int) -> int:
        """A record by `chance` in [0, 1): any at all, or any of the window that `step` falls into."""
        if not windows:
            return int(chance * num_records)
        cycle, place = divmod(step // STEPS_PER_WINDOW, len(windows))
        window = windows[_permutation(self.seed, cycle, len(windows))[place]]
        return window[int(chance * len(window))]


@functools.lru_cache(maxsize=8)
def _permutation(seed: int, cycle: int, length: int) -> np.ndarray:
    return np.random.default_rng([seed, 2**33, cycle]).permutation(length)


def shuffle_windows(num_records: int, windows: list[range] | None, rng: np.random.Generator) -> np.ndarray:
    """A permutation of the records: without windows any, with them window by window in random order."""
    if not windows:
        return rng.permutation(num_records)
    return np.concatenate([rng.permutation(windows[place]) for place in rng.permutation(len(windows))])
