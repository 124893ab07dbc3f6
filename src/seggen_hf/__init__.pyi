"""The names that `__init__.py` resolves on first use, for editors and type checkers."""

from seggen_hf.pipelines import ColormapCodec as ColormapCodec
from seggen_hf.pipelines import Flux2Mask2ImgPipeline as Flux2Mask2ImgPipeline
from seggen_hf.pipelines import Flux2Text2MaskPipeline as Flux2Text2MaskPipeline
from seggen_hf.pipelines import Mask2ImgPipeline as Mask2ImgPipeline
from seggen_hf.pipelines import PanopticCodec as PanopticCodec
from seggen_hf.pipelines import Text2MaskPipeline as Text2MaskPipeline

from .data.sources.load import load_records as load_records
from .hub.registration import register_pipelines as register_pipelines
from .labels import LabelSet as LabelSet
from .segmenter.evaluation import evaluate_segmenter as evaluate_segmenter
from .synthesis import filter_records as filter_records
from .synthesis import load_synthetic as load_synthetic
from .synthesis import synthesize as synthesize
from .trainers.roundtrip import roundtrip_report as roundtrip_report

__version__: str
