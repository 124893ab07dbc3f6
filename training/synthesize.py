# /// script
# requires-python = ">=3.11"
# dependencies = ["seggen_hf @ git+https://github.com/seggen/seggen_hf"]
# ///
"""Make synthetic records with trained generators, on one process or many; what is finished is kept.

    python training/synthesize.py RECIPE --text2mask_model DIR --mask2img_model DIR --output_dir DIR
    torchrun --nproc_per_node 8 training/synthesize.py RECIPE --mask2img_model DIR --masksyn_variants 0
    accelerate launch training/synthesize.py --dataset_name FOLDER --height 512 --width 512 --mask2img_model DIR ...

RECIPE is a YAML file or a built-in recipe's name; its sections data, caption and synthesis are read, flags override
them, `--help` lists them. On CPUs `ACCELERATE_USE_CPU=true torchrun ...` starts several processes, on gloo
(`accelerate launch --cpu` would start one).
"""

import sys

from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import InitProcessGroupKwargs

from seggen_hf.config import CaptionConfig, DataConfig, SynthesisConfig, parse_or_exit
from seggen_hf.data.captions import add_captions
from seggen_hf.data.schema import labels_of
from seggen_hf.data.sources.split import load_split
from seggen_hf.pipelines import Mask2ImgPipeline, Text2MaskPipeline
from seggen_hf.storage.folders import SYNTHESIS, check_folder
from seggen_hf.synthesis import synthesize
from seggen_hf.synthesis.generators import open_pipeline
from seggen_hf.trainers.loop import PROCESS_TIMEOUT


def run(data: DataConfig, caption: CaptionConfig, config: SynthesisConfig) -> None:
    if not config.mask2img_model:
        raise ValueError("--mask2img_model is missing; name the folder or Hub id of a trained Mask2Img pipeline.")
    if config.masksyn_variants and not config.text2mask_model:
        raise ValueError("--text2mask_model is missing; name a trained Text2Mask, or set --masksyn_variants 0.")
    check_folder(config.output_dir, SYNTHESIS)
    # While one process converts the records, the others wait.
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=PROCESS_TIMEOUT)])
    with accelerator.main_process_first():  # the others find the converted records in the cache
        records = load_split(data, data.train_split, data.max_train_records)
    if caption.captioner == "template":  # a model captions once, with `seggen caption`, not once in every process
        records = add_captions(records, labels_of(records), caption)
    models: dict[str, tuple] = {"mask2img": (Mask2ImgPipeline, config.mask2img_model)}
    if config.masksyn_variants:
        models["text2mask"] = (Text2MaskPipeline, config.text2mask_model)
    synthesize(
        records,
        config.output_dir,
        config,
        **{name: open_pipeline(pipeline_class, model, config) for name, (pipeline_class, model) in models.items()},
        accelerator=accelerator,
        height=data.height,
        width=data.width,
        provenance={"data": data.dataset_name} | {name: model for name, (_, model) in models.items()},
    )
    get_logger(__name__, log_level="INFO").info("%s is finished.", config.output_dir)
    accelerator.end_training()


def main(argv: list[str] | None = None) -> None:
    configs = parse_or_exit(DataConfig, CaptionConfig, SynthesisConfig, argv=argv)
    try:
        run(*configs)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
