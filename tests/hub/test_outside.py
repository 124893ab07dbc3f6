"""Data sets of the Hub whose rows name files: what was downloaded with them is read, this machine's own is not."""

from PIL import Image

SETS = """
    import json, sys
    from pathlib import Path
    import numpy as np, pyarrow as pa, pyarrow.parquet as pq
    from datasets import Features, Image
    from huggingface_hub import HfApi
    from PIL import Image as Picture

    api, private = HfApi(), sys.argv[1]
    features = Features({"image": Image(), "mask": Image()})
    labels = json.dumps(["sky", "road"])
    for name in ("outside", "pictures"):
        Path(name).mkdir()
        (Path(name) / "labels.json").write_text(labels)
    row = {column: {"bytes": None, "path": private} for column in features}
    pq.write_table(pa.Table.from_pylist([row], schema=features.arrow_schema), "outside/train.parquet")
    (Path("pictures") / "train").mkdir()
    for name in ("a", "a_mask"):
        Picture.fromarray(np.ones((8, 8), np.uint8)).save(f"pictures/train/{name}.png")
    line = {"image_file_name": "a.png", "mask_file_name": "a_mask.png"}
    (Path("pictures") / "train" / "metadata.jsonl").write_text(json.dumps(line))
    for name in ("outside", "pictures"):
        api.create_repo(f"seggen/{name}", repo_type="dataset")
        api.upload_folder(folder_path=name, repo_id=f"seggen/{name}", repo_type="dataset")
"""
READ = """
    import sys
    from seggen_hf.data.schema import read_map
    from seggen_hf.data.sources.load import load_records
    from seggen_hf.data.sources.streamed import stream_records

    private = sys.argv[1]
    for read in (load_records, lambda *names, **more: stream_records(*names, **more)[0]):
        try:
            read("seggen/outside", mask_column="mask")
        except ValueError as error:
            assert private in str(error) and "media_roots" in str(error), error
        else:
            raise AssertionError("a file of this machine was read")
    (record,) = load_records("seggen/pictures", mask_column="mask")
    assert (read_map(record["segmentation_map"]) == 1).all() and record["image"].size == (8, 8)
    print("read")
"""


def test_rows_name_what_was_downloaded_with_them_and_nothing_else(run_client, tmp_path):
    private = tmp_path / "private.png"
    Image.new("L", (8, 8), 1).save(private)
    run_client(SETS, private)
    assert run_client(READ, private).stdout.strip() == "read"
