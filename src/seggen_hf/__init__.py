"""SegGen with Hugging Face libraries. Names resolve on first use, so that `import seggen_hf` is instant."""

import importlib
import logging
import os
from importlib.metadata import version

# Threads that wait for work sleep: by default they spin, and where other processes have the cores a training on two
# threads took 32 s a step instead of 1.1. Alone on two cores it costs a little: 0.38 s instead of 0.33. It counts if
# torch is imported after this; who sets it keeps what they set.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# At its import transformers tells of image processors that nothing here uses: before anybody can ask it to be quiet.
logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: "requires torchvision" not in record.getMessage()
)

__version__ = version("seggen_hf")

_MODULE_OF = {
    "ColormapCodec": "pipelines",
    "Flux2Mask2ImgPipeline": "pipelines",
    "Flux2Text2MaskPipeline": "pipelines",
    "LabelSet": "labels",
    "Mask2ImgPipeline": "pipelines",
    "Text2MaskPipeline": "pipelines",
    "PanopticCodec": "pipelines",
    "evaluate_segmenter": "segmenter.evaluation",
    "filter_records": "synthesis",
    "load_records": "data.sources.load",
    "load_synthetic": "synthesis",
    "register_pipelines": "hub.registration",
    "roundtrip_report": "trainers.roundtrip",
    "synthesize": "synthesis",
}
__all__ = sorted(_MODULE_OF)  # pyright: ignore[reportUnsupportedDunderAll]  # __init__.pyi lists them


def __getattr__(name):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *__all__])
