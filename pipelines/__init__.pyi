"""The names that `__init__.py` resolves on first use, for editors and type checkers."""

from .pipeline_flux2_mask2img import Flux2Mask2ImgPipeline as Flux2Mask2ImgPipeline
from .pipeline_flux2_mask2img import check_reference_size as check_reference_size
from .pipeline_flux2_text2mask import Flux2Text2MaskPipeline as Flux2Text2MaskPipeline
from .pipeline_mask2img import Mask2ImgPipeline as Mask2ImgPipeline
from .pipeline_text2mask import Text2MaskPipeline as Text2MaskPipeline
from .seggen_colormap import ColormapCodec as ColormapCodec
from .seggen_colormap import DecodedMaps as DecodedMaps
from .seggen_flux2 import caption_places as caption_places
from .seggen_flux2 import encode_flux2_guided as encode_flux2_guided
from .seggen_mask2img import Mask2ImgOutput as Mask2ImgOutput
from .seggen_palette import generate_palette as generate_palette
from .seggen_palette import packing_bound as packing_bound
from .seggen_panoptic import DecodedPanoptic as DecodedPanoptic
from .seggen_panoptic import PanopticCodec as PanopticCodec
from .seggen_pipeline import ColormapPipelineMixin as ColormapPipelineMixin
from .seggen_pipeline import condition_channels as condition_channels
from .seggen_pipeline import encode_condition as encode_condition
from .seggen_pipeline import resize_nearest as resize_nearest
from .seggen_text2mask import Text2MaskOutput as Text2MaskOutput
