"""What only a CUDA device can show; without one these tests are skipped.

SEGGEN_GPU_TESTS_ON=cpu runs their bodies on the CPU, to see that they are not broken.
"""

import os
from pathlib import Path

import pytest

ON = os.environ.get("SEGGEN_GPU_TESTS_ON", "cuda")
if ON == "cpu":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
# cuBLAS reads it when it is first used: sums are then made in one order, and in memory too small to spoil a peak.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")

import torch  # noqa: E402


def pytest_collection_modifyitems(items):
    if ON == "cpu" or torch.cuda.is_available():
        return
    reason = "there is no CUDA device; SEGGEN_GPU_TESTS_ON=cpu runs the test's body on the CPU"
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def device() -> torch.device:
    return torch.device(ON)


@pytest.fixture(autouse=True)
def exact_float32():
    """float32 products are not rounded to TF32, and each test finds Accelerate as a new process does."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def make_training(miniature_dir, scene_records, tmp_path_factory):
    """A task and its settings: `make_training("mask2img-lora", folder, mixed_precision="bf16")`."""
    from trainings import build_training

    base, models = miniature_dir, tmp_path_factory.mktemp("segmenters")

    def make(name: str, folder: Path, **changes):
        return build_training(name, folder, base, models, scene_records, **changes)

    return make
