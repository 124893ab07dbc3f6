# /// script
# requires-python = ">=3.11"
# dependencies = ["seggen_hf @ git+https://github.com/seggen/seggen_hf"]
# ///
"""Train Mask2Img: color map + caption -> image, a ControlNet on the base.

    python training/train_mask2img.py                                        the built-in scenes, the shipped miniature
    python training/train_mask2img.py ade20k_sdxl --dry_run                  memory and disk; loads nothing
    accelerate launch training/train_mask2img.py RECIPE --output_dir runs/NAME/mask2img
    ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 training/train_mask2img.py --max_train_steps 100

RECIPE is a YAML file or a built-in recipe's name; its sections data, caption and mask2img are read, flags override
them, `--preset 24gb` and the like come between, `--help` lists them. A killed run continues when it is called again.
"""

from seggen_hf.config import Mask2ImgConfig
from seggen_hf.plan.generators import plan_mask2img
from seggen_hf.trainers.mask2img import Mask2ImgTask
from seggen_hf.trainers.script import run_script

if __name__ == "__main__":
    raise SystemExit(run_script(Mask2ImgConfig, Mask2ImgTask, plan_mask2img))
