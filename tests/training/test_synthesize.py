"""training/synthesize.py refuses what it cannot use in one line. What it makes is tested in tests/synthesis."""

from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "training" / "synthesize.py"


@pytest.fixture(scope="module")
def main(load_script):
    return load_script(SCRIPT).main


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--imgsyn_variant", "3"], 2, "There is no --imgsyn_variant. Did you mean '--imgsyn_variants'?"),
        (["--masksyn_variants", "0"], 1, "--mask2img_model is missing"),
        (["--mask2img_model", "somewhere"], 1, "--text2mask_model is missing"),
        (["--mask2img_model", "no/such/folder", "--masksyn_variants", "0"], 1, "no/such/folder cannot be read"),
    ],
)
def test_wrong_calls_end_with_one_line(arguments, status, message, main, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--max_train_records", "2", "--output_dir", str(tmp_path)])
    lines = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == status and lines[-1].startswith("error: ") and message in lines[-1]
