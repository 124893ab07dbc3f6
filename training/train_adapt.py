# /// script
# requires-python = ">=3.11"
# dependencies = ["seggen_hf @ git+https://github.com/seggen/seggen_hf"]
# ///
"""Adapt the base to a domain: caption -> image, before Text2Mask and Mask2Img start from it.

    python training/train_adapt.py RECIPE --dataset_name DATA                  the images of its training split
    accelerate launch training/train_adapt.py RECIPE --output_dir runs/NAME/adapted
    python training/train_text2mask.py RECIPE --base_model runs/NAME/adapted

RECIPE is a YAML file or a built-in recipe's name; its sections data, caption and adapt are read, flags override them,
`--preset 24gb` and the like come between, `--help` lists them. A killed run continues when it is called again. A whole
run (`seggen run`) adapts on the images of `data.unlabelled` too.
"""

from seggen_hf.config import AdaptConfig
from seggen_hf.plan.generators import plan_adapt
from seggen_hf.trainers.adapt import AdaptTask
from seggen_hf.trainers.script import run_script

if __name__ == "__main__":
    raise SystemExit(run_script(AdaptConfig, AdaptTask, plan_adapt))
