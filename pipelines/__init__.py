"""What travels to the Hub: the pipelines and the codec they share. Names resolve on first use."""

import importlib

_MODULE_OF = {
    "ColormapCodec": "seggen_colormap",
    "ColormapPipelineMixin": "seggen_pipeline",
    "DecodedMaps": "seggen_colormap",
    "condition_channels": "seggen_pipeline",
    "encode_condition": "seggen_pipeline",
    "generate_palette": "seggen_palette",
    "packing_bound": "seggen_palette",
    "resize_nearest": "seggen_pipeline",
    "DecodedPanoptic": "seggen_panoptic",
    "PanopticCodec": "seggen_panoptic",
    "Flux2Mask2ImgPipeline": "pipeline_flux2_mask2img",
    "Flux2Text2MaskPipeline": "pipeline_flux2_text2mask",
    "Mask2ImgOutput": "seggen_mask2img",
    "Mask2ImgPipeline": "pipeline_mask2img",
    "Text2MaskOutput": "seggen_text2mask",
    "Text2MaskPipeline": "pipeline_text2mask",
    "caption_places": "seggen_flux2",
    "check_reference_size": "pipeline_flux2_mask2img",
    "encode_flux2_guided": "seggen_flux2",
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
