"""What is wrong with a data set, and a clean copy of it."""

import os
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..config import DataConfig
from ..labels import LabelSet
from ..storage.files import new_folder
from ..storage.names import check_name
from .clean_copy import write_clean_split
from .doctor_unlabelled import UnlabelledReport, examine_unlabelled
from .likeness import compare, digest_image, find_pairs, thumbnails
from .sources.checks import LISTED, Source, explain_missing_label, explain_no_label, inspect_rows
from .sources.layout import open_source, splits_of

MUCH_VOID = 0.5  # share of a split's pixels


@dataclass
class SplitReport:
    """One split, counted.

    Args:
        pixels (`np.ndarray` of shape `(num_labels + 1,)`): pixels of each label, void last, over the readable records.
        images (`np.ndarray` of shape `(num_labels + 1,)`): images in which each occurs.
        sizes (`Counter`): (height, width) -> images.
        broken (`list` of `str`): a line `FILE: reason` for each record that cannot be used.
        notes (`list` of `str`): what was passed over or read in another way than it is written.
        duplicates (`list` of `list` of `str`): image ids whose files are equal byte for byte.
        digests (`dict`): image id -> digest of the image's file.
    """

    split: str
    num_records: int
    pixels: np.ndarray
    images: np.ndarray
    sizes: Counter
    broken: list[str]
    duplicates: list[list[str]]
    orientations: Counter
    exif_dropped: int
    exif_uncertain: list[str]
    only_void: list[str]
    notes: list[str]
    digests: dict[str, str] = field(repr=False)

    @property
    def void_share(self) -> float:
        return float(self.pixels[-1] / max(self.pixels.sum(), 1))


@dataclass
class DoctorReport:
    """What `examine` found. `problems` keep the data from being used as it is; `warnings` want a look.

    `alike` has a line for each image of a split that is another split's picture in another file.
    """

    source: str
    labels: LabelSet
    splits: list[SplitReport]
    collisions: list[str]
    alike: list[str]
    unlabelled: UnlabelledReport | None = None

    @property
    def problems(self) -> list[str]:
        found = [f"classes.json: {collision}" for collision in self.collisions]
        for report in self.splits:
            found += [f"{report.split}: {line}" for line in report.broken]
        found += self._shared_images() + self.alike
        return found + (self.unlabelled.problems if self.unlabelled else [])

    @property
    def warnings(self) -> list[str]:
        found = []
        for report in self.splits:
            found += [f"{report.split}: {note}" for note in report.notes]
            absent = [self.labels.id2label[i] for i in range(self.labels.num_labels) if report.images[i] == 0]
            if absent:
                found.append(f"{report.split}: never present: {', '.join(absent)}")
            if report.void_share > MUCH_VOID:
                found.append(f"{report.split}: {report.void_share:.0%} of the pixels are void")
            if report.only_void:
                found.append(f"{report.split}: {len(report.only_void)} maps are all void, first {report.only_void[0]}")
            found += [f"{report.split}: the same image: {', '.join(ids)}" for ids in report.duplicates]
            if report.exif_uncertain:
                count, first = len(report.exif_uncertain), report.exif_uncertain[0]
                found.append(
                    f"{report.split}: {count} images are turned by EXIF and fit their masks either way, "
                    f"first {first}; they are read as viewers show them"
                )
            if report.exif_dropped:
                found.append(
                    f"{report.split}: {report.exif_dropped} images are read without their EXIF rotation: the split's "
                    f"masks fit only so"
                )
        return found + (self.unlabelled.warnings if self.unlabelled else [])

    def _shared_images(self) -> list[str]:
        """Images that two splits share: a score on the second would be a score on training data."""
        found, seen = [], {}
        for report in self.splits:
            for image_id, digest in report.digests.items():
                if digest in seen and seen[digest][0] != report.split:
                    split, other = seen[digest]
                    found.append(f"{report.split}: {image_id} is the same image as {split}: {other}")
                seen.setdefault(digest, (report.split, image_id))
        return found

    def to_dict(self) -> dict:
        """Everything as plain JSON values."""
        names = [self.labels.id2label[i] for i in range(self.labels.num_labels)]
        splits = {}
        for report in self.splits:
            labelled = max(int(report.pixels[:-1].sum()), 1)
            classes = [
                {"id": i, "name": name, "images": int(report.images[i]), "share": float(report.pixels[i] / labelled)}
                for i, name in enumerate(names)
            ]
            splits[report.split] = {
                "records": report.num_records,
                "broken": report.broken,
                "sizes": {f"{height}x{width}": count for (height, width), count in report.sizes.most_common()},
                "void_share": report.void_share,
                "classes": classes,
                "duplicates": report.duplicates,
                "exif_rotated": sum(report.orientations.values()),
            }
        return {
            "source": self.source,
            "num_labels": self.labels.num_labels,
            "splits": splits,
            "unlabelled": self.unlabelled.to_dict() if self.unlabelled else None,
            "problems": self.problems,
            "warnings": self.warnings,
        }

    def to_text(self) -> str:
        """A page for the terminal; long lists are cut after the first 20."""
        lines = [f"{self.source}: {self.labels.num_labels} labels"]
        for report in self.splits:
            sizes = ", ".join(f"{count} of {h} x {w}" for (h, w), count in report.sizes.most_common(3))
            more = f", {len(report.sizes) - 3} further sizes" if len(report.sizes) > 3 else ""
            broken, void = len(report.broken), report.void_share
            lines += [
                "",
                f"{report.split}: {report.num_records} records, {broken} broken, void {void:.1%}",
                f"  height x width: {sizes or 'none'}{more}",
                f"  {'id':>5} {'label':24} {'images':>7} {'pixels':>8}",
            ]
            labelled = max(int(report.pixels[:-1].sum()), 1)
            for i in range(self.labels.num_labels):
                share = report.pixels[i] / labelled
                lines.append(f"  {i:>5} {self.labels.id2label[i][:24]:24} {report.images[i]:>7} {share:>8.2%}")
        lines += self.unlabelled.to_lines() if self.unlabelled else []
        for title, found in (("Problems", self.problems), ("Warnings", self.warnings)):
            lines += ["", f"{title}: {len(found) or 'none'}", *(f"  {line}" for line in found[:LISTED])]
            if len(found) > LISTED:
                lines.append(f"  ... and {len(found) - LISTED} more")
        return "\n".join(lines)


@dataclass
class FixReport:
    """What `fix` wrote: the folder, records per split, and a line for each record that was left out."""

    folder: Path
    written: dict[str, int]
    left_out: list[str]


def examine(
    source: str | Path, split: str | list[str] | None = None, unlabelled: str | None = None, **settings
) -> DoctorReport:
    """Read every picture of a source and report what is there and what is wrong.

    Args:
        source (`str`): as for `load_records`.
        split (`str` or `list`): all splits if not given; several are also compared with each other.
        unlabelled: images without masks, as `data.unlabelled` names them; compared with all splits.
        settings: image_column, mask_column, labels, zero_is_void, config_name, revision of `load_records`.
    Raises: `ValueError` where there is nothing to examine: an unknown layout, split, or no labels.
    """
    reports, labels, collisions, alike, seen = [], None, [], [], []
    names = _split_names(source, split, settings)
    for name in names:
        found = open_source(source, name, **settings)
        labels, collisions = found.labels, found.collisions
        reports.append(_examine_split(found, name))
        if len(names) == 1:
            continue  # nothing to compare with
        small = thumbnails(found.rows)
        for earlier, report, others in seen:
            alike += _tell_alike(earlier, report, others, found, reports[-1], small)
        seen.append((found, reports[-1], small))
    if labels is None:
        raise ValueError(f"No split of {source} is named; name one, or none for all.")
    more = None
    if unlabelled is not None:
        names = ("image_column", "media_roots", "max_megapixels")
        read = {name: value for name in names if (value := settings.get(name))}
        data = DataConfig(dataset_name=str(source), unlabelled=unlabelled, **read)
        more = examine_unlabelled(data, {report.split: report.digests for report in reports})
    return DoctorReport(str(source), labels, reports, collisions, alike, more)


def _tell_alike(
    first: Source, of_first: SplitReport, small_first: np.ndarray, second: Source, of_second: SplitReport, small
) -> list[str]:
    """Images of `second` that are pictures of `first` in other files; those in equal files are told elsewhere."""
    ids = first.rows["image_id"][:], second.rows["image_id"][:]
    told = set(of_first.digests.values())
    pairs = [pair for pair in find_pairs(small_first, small) if of_second.digests.get(ids[1][pair[1]], "") not in told]
    return [
        f"{of_second.split}: {ids[1][pair.second]} is the same picture as {of_first.split}: {ids[0][pair.first]}, in "
        f"another file (its pixels differ by {pair.difference:.1f} of 255)"
        for pair in compare(first.rows, second.rows, pairs)
    ]


def fix(
    source: str | Path,
    output_dir: str | Path,
    splits: str | list[str] | None = None,
    value_range: tuple[float, float] | None = None,
    **settings,
) -> FixReport:
    """Write a clean copy: SPLIT/images, SPLIT/masks (PNG label ids) and classes.json; of a source with segments COCO
    panoptic (panoptic_SPLIT.json, panoptic_SPLIT/, images/SPLIT/), so that its task stays.

    EXIF rotation is applied (or dropped, where the mask was drawn without it), label ids become 0..C-1, broken records
    are left out. Images that need nothing are copied byte for byte. The source is only read; the copy gets its name
    when it is whole. Of labels that share a color only the first keeps it.

    Args:
        output_dir (`str`): must not exist yet, nor lie in the source.
        value_range: the values that become 0 and 255 where images have more than 8 bits, whose pixels those are; such
            images are left out without it.
        splits, settings: as in `examine`.
    Raises: `ValueError` for a folder that exists, and if nothing is left.
    """
    output_dir = Path(output_dir)
    check_output_dir(source, output_dir)
    names = _split_names(source, splits, settings)
    report = FixReport(output_dir, {}, [])
    with new_folder(output_dir) as temporary:
        for name in names:
            found = open_source(source, check_name(name, "A split"), **settings)
            report.written[name], left_out = write_clean_split(found, temporary, name, value_range)
            report.left_out += [f"{name}: {line}" for line in left_out]
        if not any(report.written.values()):
            raise ValueError(f"Nothing of {source} could be kept: {report.left_out[0]}.")
    return report


def check_output_dir(source: str | Path, output_dir: Path) -> None:
    """Refuse a folder for the clean copy that exists or lies in the source."""
    if os.path.lexists(output_dir):  # a link that leads nowhere too
        raise ValueError(f"{output_dir} exists; name a new folder for the clean copy.")
    if Path(source).is_dir() and output_dir.resolve().is_relative_to(Path(source).resolve()):
        raise ValueError(f"{output_dir} lies in the source, which is never changed; name a folder beside it.")


def _split_names(source, split, settings: dict) -> list[str]:
    if split is None:
        return splits_of(source, settings.get("config_name"), settings.get("revision"))
    return [split] if isinstance(split, str) else list(split)


def _examine_split(found: Source, split: str) -> SplitReport:
    inspections = inspect_rows(found)
    good = [entry for entry in inspections if entry.problem is None]
    counts = np.array([entry.counts for entry in good]).reshape(-1, found.labels.num_labels + 1)
    with ThreadPoolExecutor(max_workers=4) as pool:
        images = found.rows.select_columns("image")
        of_images = pool.map(lambda i: digest_image(images[i]["image"]), range(len(images)))
        digests = dict(zip(found.rows["image_id"][:], of_images, strict=True))
    missing = explain_missing_label(found, inspections) or explain_no_label(inspections)
    if not inspections and not found.problems:
        missing = "there are no records"
    groups = defaultdict(list)
    for image_id, digest in digests.items():
        groups[digest].append(image_id)
    return SplitReport(
        split=split,
        num_records=len(inspections) + len(found.problems),
        pixels=counts.sum(axis=0),
        images=(counts > 0).sum(axis=0),
        sizes=Counter(entry.size for entry in good),
        broken=[*found.problems, *(entry.problem for entry in inspections if entry.problem), *filter(None, [missing])],
        duplicates=[ids for digest, ids in groups.items() if len(ids) > 1 and digest],
        orientations=Counter(entry.orientation for entry in inspections if entry.orientation != 1),
        exif_dropped=sum(entry.drops_exif for entry in good),
        exif_uncertain=[entry.image_id for entry in good if entry.uncertain_exif],
        only_void=[entry.image_id for entry, count in zip(good, counts, strict=True) if not count[:-1].any()],
        notes=found.notes,
        digests={image_id: digest for image_id, digest in digests.items() if digest},
    )
