"""Records read by row groups: those on disk, in an order that keeps to what was read, in bounded memory."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seggen_hf.config import CaptionConfig, DataConfig, SegmenterConfig
from seggen_hf.data.captions import add_captions
from seggen_hf.data.mixture import STEPS_PER_WINDOW, DecodedRecords, RecordMixture
from seggen_hf.data.pixel_mixing import RealPartners
from seggen_hf.data.schema import encode_map, labels_of, read_image, read_map, record_features
from seggen_hf.data.sources import streamed
from seggen_hf.data.sources.streamed import join_streams, stream_records, stream_split
from seggen_hf.labels import LabelSet


@pytest.fixture(scope="module")
def shards(scene_records, tmp_path_factory):
    """Two shards of 5 and 3 records, two records in a row group."""
    folder = tmp_path_factory.mktemp("shards")
    raw = scene_records.with_format("arrow")
    for number, rows in enumerate((range(5), range(5, 8))):
        table = raw.select(rows)[:]
        table = table.replace_schema_metadata(scene_records.features.arrow_schema.metadata)
        pq.write_table(table, folder / f"train-{number}.parquet", row_group_size=2)
    labels_of(scene_records).save(folder)
    return folder


def test_streamed_records_are_those_on_disk(shards, scene_records):
    records = stream_records(str(shards))
    assert len(records) == len(scene_records)
    assert labels_of(records).to_dict() == labels_of(scene_records).to_dict()
    for index in np.random.default_rng(0).permutation(8).tolist():
        found, known = records[index], scene_records[index]
        assert found["image_id"] == known["image_id"] and found["caption"] == known["caption"]
        assert np.array_equal(read_image(found["image"]), read_image(known["image"]))
        assert np.array_equal(read_map(found["segmentation_map"]), read_map(known["segmentation_map"]))
    with pytest.raises(IndexError, match="8 records"):
        records[8]
    first = stream_records(str(shards), max_records=3)
    assert len(first) == 3 and first.windows() == [range(3)] and first[2]["image_id"] == scene_records[2]["image_id"]
    with pytest.raises(IndexError, match="3 records"):
        first[3]


def test_a_stream_of_samples_tells_no_source_to_mix_with(shards, scene_records):
    with pytest.raises(ValueError, match="drop --streaming"):
        RealPartners(DecodedRecords(scene_records), stream_records(str(shards)), 0.5)


def test_streamed_labels_take_their_own_palette_as_loaded_ones_do(shards, scene_records):
    for palette in ("generated", "dataset"):
        labels = labels_of(stream_split(DataConfig(dataset_name=str(shards), palette=palette), "train", None))
        assert labels.palette == palette and labels.colors == labels_of(scene_records).colors


def test_only_the_row_groups_read_last_stay_in_memory(shards, monkeypatch):
    records = stream_records(str(shards))
    records[0]
    one = sum(records._sizes.values())
    monkeypatch.setattr(streamed, "CACHE_BYTES", 2.5 * one)
    read = []
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", _spy(pq.ParquetFile.read_row_group, read))
    for index in (1, 2, 3, 4, 6, 0):
        records[index]
        assert sum(records._sizes.values()) <= 2.5 * one and list(records._cache) == list(records._sizes)
    assert read == [1, 2, 0, 0]  # 2, 4, then 6 of the second shard, and 0 again, which was let go


def _spy(function, numbers):
    def call(self, number, **kwargs):
        numbers.append(number)
        return function(self, number, **kwargs)

    return call


def test_a_stream_of_many_shards_holds_few_files_open(shards, scene_records, tmp_path, monkeypatch):
    (tmp_path / "labels.json").write_text((shards / "labels.json").read_text())
    table = pq.read_table(shards / "train-0.parquet")
    for number in range(20):
        pq.write_table(table.slice(number % 5, 1), tmp_path / f"train-{number:02d}.parquet")
    monkeypatch.setattr(streamed, "OPEN_FILES", 3)
    before = _open_files(tmp_path)
    records = stream_records(str(tmp_path))
    assert len(records) == 20 and before == _open_files(tmp_path) == 0  # footers are read and let go
    for index in (*range(20), 0, 19):
        assert records[index]["image_id"] == scene_records[index % 5]["image_id"]
        assert _open_files(tmp_path) <= 3


def _open_files(folder) -> int:
    """Parquet files in `folder` that this process has open."""
    held = [path.resolve() for path in Path("/proc/self/fd").iterdir()]
    return sum(path.parent == folder and path.suffix == ".parquet" for path in held)


def test_workers_connect_themselves(shards):
    records = stream_records(str(shards))
    before = records[3]
    copy = pickle.loads(pickle.dumps(records))
    assert not copy._files and not copy._cache
    assert np.array_equal(copy[3]["segmentation_map"], before["segmentation_map"])


def test_a_map_with_other_ids_is_named_when_its_turn_comes(scene_records, tmp_path):
    rows = [dict(scene_records[0], segmentation_map=encode_map(np.full((4, 4), 99, np.uint8)), image=None)]
    features = record_features()
    rows = [{name: row[name] for name in features} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows, schema=features.arrow_schema), tmp_path / "train.parquet")
    labels_of(scene_records).save(tmp_path)
    with pytest.raises(ValueError, match=r"record 0 of .*train\.parquet: label ids .*99"):
        stream_records(str(tmp_path))[0]


def test_what_cannot_be_streamed_is_refused(shards, tmp_path):
    with pytest.raises(ValueError, match="has no split 'val'; it has train"):
        stream_records(str(shards), "val")
    (tmp_path / "train.csv").write_text("image,segmentation_map\na.png,b.png\n")
    with pytest.raises(ValueError, match=r"lies in train\.csv, and only Parquet can be streamed"):
        stream_records(str(tmp_path))


def mixture(mode, real, synthetic, **windows):
    config = SegmenterConfig(
        synthetic_mode=mode, synthetic_dataset="x", synthetic_until=0.9, max_train_steps=1000, seed=3
    )
    return RecordMixture(real, synthetic, config, **windows)


def test_windows_are_whole_row_groups(shards, monkeypatch):
    records = stream_records(str(shards))
    assert records.windows() == [range(8)]
    monkeypatch.setattr(streamed, "WINDOW_ROWS", 3)
    assert records.windows() == [range(0, 4), range(4, 7), range(7, 8)]


@pytest.mark.parametrize("mode", ["replace", "pretrain", "joint", "only"])
def test_an_epoch_has_every_record_once_and_goes_window_by_window(mode):
    real, synthetic = [range(0, 4), range(4, 9), range(9, 10)], [range(0, 7), range(7, 12)]
    mixed = mixture(mode, 10, 12, real_windows=real, synthetic_windows=synthetic)
    orders = [mixed.epoch_order(np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert orders[0].tolist() == orders[1].tolist() != orders[2].tolist()
    for order in orders:
        assert sorted(order.tolist()) == list(range(mixed.num_records))
        parts = {"joint": [(0, real), (10, synthetic)], "only": [(0, synthetic)]}.get(mode, [(0, real)])
        for offset, windows in parts:
            length = windows[-1].stop
            places = [index - offset for index in order.tolist() if offset <= index < offset + length]
            visited = [next(i for i, window in enumerate(windows) if place in window) for place in places]
            changes = sum(a != b for a, b in zip(visited, visited[1:], strict=False))
            assert changes == len(windows) - 1


def test_random_draws_stay_in_one_window_and_reach_all():
    windows = [range(start, start + 10) for start in range(0, 40, 10)]
    mixed = mixture("pretrain", 5, 40, synthetic_windows=windows)
    rng = np.random.default_rng(0)
    reached = set()
    for turn in range(4):
        drawn = {mixed.pick(0, rng, turn * STEPS_PER_WINDOW + step)[1] for step in range(STEPS_PER_WINDOW)}
        assert any(drawn <= set(window) for window in windows)
        reached |= drawn
    assert reached == set(range(40))


def test_columns_are_chosen_and_captions_replaced(shards, scene_records, monkeypatch):
    records = stream_records(str(shards))
    asked = []
    read = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, i, columns: asked.extend(columns) or read(self, i, columns)
    )
    assert records["caption"] == scene_records["caption"][:] and set(asked) == {"caption"}
    asked.clear()
    maps = records.select_columns("segmentation_map")
    assert maps.column_names == ["segmentation_map"] and list(maps[7]) == ["segmentation_map"]
    assert np.array_equal(read_map(maps[7]["segmentation_map"]), read_map(scene_records[7]["segmentation_map"]))
    assert set(asked) == {"segmentation_map"}
    captioned = records.with_captions([f"caption {i}" for i in range(8)])
    assert captioned[5]["caption"] == "caption 5" and captioned["caption"][6] == "caption 6"
    assert captioned[5]["image_id"] == records[5]["image_id"] and records[5]["caption"] != "caption 5"
    assert "caption" not in captioned.select_columns(["image"]).column_names
    assert pickle.loads(pickle.dumps(captioned))[4]["caption"] == "caption 4"
    with pytest.raises(ValueError, match="1 captions for 8 records"):
        records.with_captions(["one"])


def test_a_stream_without_captions_gets_those_of_the_template(shards, scene_records, tmp_path):
    table = pq.read_table(shards / "train-0.parquet").drop_columns(["caption", "image_id"])
    pq.write_table(table, tmp_path / "train.parquet", row_group_size=2)
    labels = labels_of(scene_records)
    labels.save(tmp_path)
    stream = add_captions(stream_records(str(tmp_path)), labels, CaptionConfig())
    known = add_captions(scene_records.select(range(5)), labels, CaptionConfig(recaption=True))
    assert stream["caption"] == known["caption"][:] and stream[3]["caption"] == known[3]["caption"]


def test_several_streams_become_one(shards, scene_records, tmp_path):
    parts = [stream_records(str(shards)), stream_records(str(shards), max_records=3), stream_records(str(shards))]
    joined = join_streams(parts, ["a", "b", "c"])
    known = [*range(8), *range(3), *range(8)]
    assert len(joined) == len(known) and len(joined.facts) == 7
    for index in np.random.default_rng(0).permutation(len(known)).tolist():
        assert joined[index]["image_id"] == scene_records["image_id"][known[index]]
    assert [i for window in joined.windows() for i in window] == list(range(19))
    assert joined["image_id"] == [scene_records["image_id"][i] for i in known]
    table = pq.read_table(shards / "train-0.parquet")
    pq.write_table(table.drop_columns(["image_id"]), tmp_path / "train.parquet")
    labels_of(scene_records).save(tmp_path)
    with pytest.raises(ValueError, match="a and b have different columns"):
        join_streams([parts[0], stream_records(str(tmp_path))], ["a", "b"])
    LabelSet.from_id2label({i: f"other {i}" for i in range(15)}).save(tmp_path)
    with pytest.raises(ValueError, match="a and b have different labels"):
        join_streams([parts[0], stream_records(str(tmp_path))], ["a", "b"])
