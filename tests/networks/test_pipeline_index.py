"""A pipeline's own index, or one line that says why there is none."""

import pytest

from seggen_hf.networks.pipeline_index import read_index


def test_a_folder_s_index_is_read(flux2_dir):
    assert read_index(str(flux2_dir))["transformer"] == ["diffusers", "Flux2Transformer2DModel"]


@pytest.mark.parametrize("content", [None, "{", "no folder"])
def test_what_cannot_be_read_is_told_in_one_line(content, tmp_path):
    if content == "{":
        (tmp_path / "model_index.json").write_text(content)
    with pytest.raises(OSError, match="it has no model_index.json that can be read: .") as error:
        read_index("no/such-pipeline" if content == "no folder" else str(tmp_path))
    assert len(str(error.value).splitlines()) == 1
