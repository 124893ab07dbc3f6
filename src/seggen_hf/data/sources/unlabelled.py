"""Images without masks: a folder, a split of the data set, or a Hub id; with captions where they have some."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from datasets import Dataset, Image, Value, load_dataset

from ...config import SCENES, DataConfig
from ..held_out import find_held_out
from ..scenes.records import SCENE_SPLITS, scene_records
from ..schema import allow_megapixels, open_image
from .checks import UNREADABLE, explain, name_of, raise_problems
from .folder import CAPTIONS_FILE, file_rows, list_images, read_captions
from .hub import HUB_ID, ask_hub, find_caption_column, find_image_column
from .roots import Roots

COLUMNS = ("image", "caption", "image_id")
LINES = ("captions.jsonl", "metadata.jsonl")  # a line an image: its file's name, and a caption or text


def load_unlabelled(data: DataConfig, check: bool = True) -> Dataset:
    """The images that `data.unlabelled` names, in the order of their names, at most `data.max_unlabelled`; without
    those of `data.held_out_names`.

    Args:
        check: decode every image first.
    Returns: `image` (undecoded files stay where they are), `caption` (null where there is none) and `image_id`.
    Raises: `ValueError` for a name that is nothing known, images that cannot be read (the first 20, with the reason),
        and files that lie elsewhere.
    """
    assert data.unlabelled is not None
    name, where = data.unlabelled, f"data.unlabelled {data.unlabelled}"
    allow_megapixels(data.max_megapixels)
    beside = Path(data.dataset_name) / name
    if data.dataset_name == SCENES and name in SCENE_SPLITS:
        rows = scene_records(name, num_records=data.max_unlabelled, size=(data.height, data.width))
    elif Path(name).is_dir() or beside.is_dir():
        rows = _read_folder(Path(name) if Path(name).is_dir() else beside, data)
    elif HUB_ID.fullmatch(name):
        rows = _read_hub(name, data)
    else:
        raise ValueError(f"{where} is no folder, no split of {data.dataset_name} and no Hub id.")
    if held_out := set(find_held_out(rows["image_id"][:], data.held_out_names)):
        rows = rows.select([index for index in range(len(rows)) if index not in held_out])
    if data.max_unlabelled is not None:
        rows = rows.select(range(min(data.max_unlabelled, len(rows))))
    if len(rows) == 0:
        raise ValueError(f"{where} holds no images.")
    rows = rows.select_columns(list(COLUMNS)).cast_column("image", Image(decode=False))
    if check:
        check_images(rows, where)
    return rows.cast_column("image", Image(mode="RGB"))


def _read_folder(folder: Path, data: DataConfig) -> Dataset:
    """The images below `folder`/images, or below `folder` itself; masks that lie beside them are not looked at."""
    place = folder / "images" if (folder / "images").is_dir() else folder
    images, problems = list_images(place)
    raise_problems(f"data.unlabelled {data.unlabelled}", problems, len(images) + len(problems))
    roots = Roots(folder, data.media_roots)
    captions: dict[str, str] = {}
    if (folder / CAPTIONS_FILE).is_file():
        roots.check_file(folder / CAPTIONS_FILE)
        captions = read_captions(folder / CAPTIONS_FILE, images)
    for file in (path for path in (folder / name for name in LINES) if path.is_file()):
        roots.check_file(file)
        captions |= _read_lines(file)
    rows = file_rows(
        image=[str(path) for path in images.values()],
        caption=[captions.get(stem, captions.get(path.name)) for stem, path in images.items()],
        image_id=list(images),
    )
    roots.check_rows(rows, f"data.unlabelled {data.unlabelled}")
    return rows


def _read_lines(file: Path) -> dict[str, str]:
    """`{file name, or its path below the folder: caption}` of JSON lines."""
    found = {}
    for number, line in _lines(file):
        try:
            entry = json.loads(line)
            image = next(entry[key] for key in ("file_name", "image", "image_id") if key in entry)
            caption = next(entry[key] for key in ("caption", "text") if key in entry)
        except (ValueError, TypeError, StopIteration):
            raise ValueError(
                f'{file}, line {number}: it must be {{"file_name": "a.jpg", "caption": "a street"}}.'
            ) from None
        found[str(image)] = str(caption)
    return found


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if line.strip():
            yield number, line


def _read_hub(name: str, data: DataConfig) -> Dataset:
    """Of a Hub id its split `train`; a split of the data set where it is on the Hub too."""
    own_split = HUB_ID.fullmatch(data.dataset_name) and "/" not in name and not Path(data.dataset_name).is_dir()
    source, split = (data.dataset_name, name) if own_split else (name, "train")
    revision = data.dataset_revision if own_split else None
    ask_hub(source, revision)
    try:
        rows = load_dataset(source, data.dataset_config_name if own_split else None, split=split, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(f"data.unlabelled {name}: {source} ({split}) cannot be read: {error}") from error
    picture = find_image_column(rows.features, f"{source} ({split})", data.image_column)
    caption = find_caption_column(rows.features)
    renamed = {picture: "image"} | ({caption: "caption"} if caption else {})
    rows = rows.select_columns(list(renamed))
    rows = rows.rename_columns({old: new for old, new in renamed.items() if old != new})
    if caption is None:
        rows = rows.add_column("caption", [None] * len(rows), feature=Value("string"))
    return rows.add_column("image_id", [f"{i:08d}" for i in range(len(rows))], feature=Value("string"))


def check_images(rows: Dataset, where: str) -> None:
    """Raise `ValueError` with the `broken_images` of `rows`."""
    raise_problems(where, broken_images(rows), len(rows))


def broken_images(rows: Dataset) -> list[str]:
    """A line `FILE: reason` for each image that no training could read; `rows` hold undecoded ones."""

    def problem(index: int) -> str | None:
        row = rows[index]
        try:
            with open_image(row["image"]) as image:
                image.draft("L", (max(image.width // 8, 1), max(image.height // 8, 1)))  # JPEG: most of it is skipped
                image.load()
        except UNREADABLE as error:
            return f"{name_of(row['image'], row)}: {explain(error, row['image'])}"
        return None

    with ThreadPoolExecutor(max_workers=4) as pool:
        return [line for line in pool.map(problem, range(len(rows))) if line]
