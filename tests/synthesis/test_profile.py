"""benchmarks/profile_synthesis.py runs, its parts are all of the time, and the pipelines are left as they were."""

import json
from pathlib import Path

import pytest
from synthesis_settings import SIZE

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "profile_synthesis.py"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(SCRIPT)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["imgsyn", "masksyn"])
def test_every_part_of_a_shard_is_timed(kind, script, generator_dirs, capsys):
    text2mask, mask2img = generator_dirs
    settings = {"mask2img_model": mask2img, "text2mask_model": text2mask, "batch_size": 2, "mask2img_steps": 1}
    settings |= {"text2mask_steps": 1, "max_color_distance": 500, "max_ignored_share": 1.0, "samples": 3, **SIZE}
    script.main(["--kind", kind, *(str(part) for name, value in settings.items() for part in (f"--{name}", value))])
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == kind and found["samples"] == 3 and found["samples_per_second"] > 0
    assert set(found["parts"]) == {"networks", "autoencoder", "text", "host"}
    assert all(seconds > 0 for seconds in found["parts"].values())
    assert sum(found["parts"].values()) == pytest.approx(found["timed_seconds"], abs=0.01)


def test_timed_pipelines_are_as_before(script, generators):
    clock = script.Clock(next(generators["mask2img"].unet.parameters()).device)
    with clock.timing([*generators.values(), *generators.values()]):  # shared components are timed once
        assert "forward" in vars(generators["mask2img"].unet)
    parts = [pipeline.components[name] for pipeline in generators.values() for name in ("unet", "vae")]
    assert not any({"forward", "decode"} & vars(part).keys() for part in parts)
