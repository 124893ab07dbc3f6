# /// script
# requires-python = ">=3.11"
# dependencies = ["seggen_hf @ git+https://github.com/seggen/seggen_hf"]
# ///
"""Train Text2Mask: caption -> color map.

    python training/train_text2mask.py                                       the built-in scenes, the shipped miniature
    python training/train_text2mask.py ade20k_sdxl --dry_run                 memory and disk; loads nothing
    accelerate launch training/train_text2mask.py RECIPE --output_dir runs/NAME/text2mask
    ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 training/train_text2mask.py --max_train_steps 100

RECIPE is a YAML file or a built-in recipe's name; its sections data, caption and text2mask are read, flags override
them, `--preset 24gb` and the like come between, `--help` lists them. A killed run continues when it is called again.
"""

from seggen_hf.config import Text2MaskConfig
from seggen_hf.plan.generators import plan_text2mask
from seggen_hf.trainers.script import run_script
from seggen_hf.trainers.text2mask import Text2MaskTask

if __name__ == "__main__":
    raise SystemExit(run_script(Text2MaskConfig, Text2MaskTask, plan_text2mask))
