"""The pictures that the miniature base learns from: captioned scenes in all styles, and flat drawings of shapes.

They are drawn once, by processes beside the training, into one memory-mapped file. None is in a labelled or test
split, and none is a segmentation map.
"""

import json
import os
import threading
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from seggen_hf.pipelines import generate_palette

from ..data.scenes.records import STYLES, draw_scene
from ..miniature.drawings import DRAWING_CAPTION, draw_shapes

PRIOR_SEED = 7_000_000  # of the pictures; that of the labelled and test scenes is 0
PALETTE_SIZES = (4, 6, 8, 11, 15, 19, 25, 34, 50)  # numbers of labels whose generated palettes the decoder sees
_CHUNK = 64


def _draw(place: tuple[str, int]) -> tuple[np.ndarray, str]:
    kind, index = place
    if kind == "scene":
        scene = draw_scene(PRIOR_SEED, index, STYLES)
        return np.asarray(scene.image), scene.caption
    rng = np.random.default_rng([PRIOR_SEED, 1, index])
    # Palettes have colors midway between others: a blurred edge there names a label that is not in the map.
    sizes = None if kind == "drawing" else PALETTE_SIZES[int(rng.integers(len(PALETTE_SIZES)))]
    return draw_shapes(rng, palette=sizes and np.array(generate_palette(sizes).colors)), DRAWING_CAPTION


class PriorPictures:
    """uint8 `(N, 64, 64, 3)` and N captions: drawings in the colors of palettes first, then drawings in any colors,
    then scenes.

    Drawing begins at once, in `processes` of its own, and `first(count)` waits for no more than it returns. A file
    that is whole is read instead, and what is written to the array stays in memory.

    Args:
        folder (`Path`): of `pictures-*.npy` and `captions-*.json`.
        num_palettes, num_drawings, num_scenes (`int`): how many of each kind.
    """

    def __init__(
        self, folder: Path, num_palettes: int, num_drawings: int, num_scenes: int, processes: int | None = None
    ):
        kinds = (("palette", num_palettes), ("drawing", num_drawings), ("scene", num_scenes))
        self._places = [(kind, i) for kind, count in kinds for i in range(count)]
        self.num_palettes, self.num_flat = num_palettes, num_palettes + num_drawings
        name = f"{num_palettes}-{num_drawings}-{num_scenes}"
        self._file, self._captions_file = folder / f"pictures-{name}.npy", folder / f"captions-{name}.json"
        self.captions: list[str] = []
        self._drawn, self._error, self._more = 0, None, threading.Condition()
        if self._file.is_file():
            self._images = np.load(self._file, mmap_mode="c")  # as a tensor it must seem writable
            self.captions = json.loads(self._captions_file.read_text())
            self._drawn = len(self._images)
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._temporary = self._file.with_name(self._file.name + ".tmp")
        shape = (len(self), 64, 64, 3)
        self._images = np.lib.format.open_memmap(self._temporary, mode="w+", dtype=np.uint8, shape=shape)
        processes = processes or max(1, (os.cpu_count() or 1) - 1)
        threading.Thread(target=self._draw_all, args=(processes,), daemon=True).start()

    def __len__(self) -> int:
        return len(self._places)

    def _draw_all(self, processes: int) -> None:
        try:
            with get_context("spawn").Pool(processes) as pool:
                drawn = pool.imap(_draw, self._places, _CHUNK)
                for i, (image, caption) in enumerate(tqdm(drawn, total=len(self), desc="drawing", mininterval=5)):
                    self._images[i] = image
                    self.captions.append(caption)
                    if (i + 1) % _CHUNK == 0:
                        self._tell(i + 1)
            self._images.flush()
            self._captions_file.write_text(json.dumps(self.captions))
            os.replace(self._temporary, self._file)
            self._tell(len(self))
        except Exception as error:  # told where it is waited for
            self._error = error
            self._tell(self._drawn)

    def _tell(self, drawn: int) -> None:
        with self._more:
            self._drawn = drawn
            self._more.notify_all()

    def first(self, count: int | None = None) -> np.ndarray:
        """The first `count` pictures, memory-mapped; all of them by default.

        Raises: what drawing them raised.
        """
        count = len(self) if count is None else min(count, len(self))
        with self._more:
            self._more.wait_for(lambda: self._drawn >= count or self._error)
        if self._error:
            raise self._error
        return self._images[:count]
