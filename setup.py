"""Packaging: `pipelines/`, `model_cards/`, `metrics/` and `training/recipes/` are mapped into the package."""

from setuptools import find_packages, setup

REPOSITORY = "https://github.com/seggen/seggen_hf"

# Lower bounds are versions that the tests ran with; constraints.txt has the exact ones.
install_requires = [
    "accelerate>=1.15",
    "datasets>=5.2",
    "diffusers>=0.42.1",
    "filelock>=4.2",
    "huggingface_hub>=2.4",
    "jinja2>=3.1",
    "numpy>=2.4",
    "peft>=0.21",
    "pillow>=12.3",
    "psutil>=7.2",  # memory of a process, wherever it runs
    "pyarrow>=26.0",
    "pycocotools>=2.0.11",
    "pyyaml>=6.0",
    "safetensors>=0.8",
    "scipy>=1.17",
    "torch>=2.13",
    "tqdm>=4.70",
    "transformers>=5.23",
    "typer>=0.29",
]

trackers = ["tensorboard>=2.21", "trackio>=0.43"]
metrics = ["evaluate>=0.4.6"]
# The Hub's own choice for Spaces. It holds Pillow under 13.
demo = ["gradio>=6.31.0"]
# torch's exporter is written in onnxscript; onnxruntime runs what it wrote beside PyTorch.
onnx = ["onnx>=1.23", "onnxscript>=0.7", "onnxruntime>=1.32"]
docs = ["mkdocstrings[python]>=1.0", "zensical>=0.0.73"]

extras_require = {
    "test": [
        "build>=1.6",
        "hypothesis>=6.170",
        "playwright>=1.65",  # the demo in a real browser
        "pyright[nodejs]>=1.1.414",  # the types; with its own Node.js, which many machines lack
        "pytest>=9.2",
        "pytest-xdist>=3.8",
        "ruff>=0.17",
        "setuptools>=84.2",
        "torchmetrics>=1.9",  # what our metrics are compared with
        *trackers,  # the tests write with both
        *metrics,
        *demo,
        *onnx,
    ],
    "demo": demo,
    "docs": docs,
    "onnx": onnx,
    "8bit": ["bitsandbytes>=0.50"],  # optimizer: adamw_8bit
    "trackers": trackers,
    "metrics": metrics,  # for evaluate.load of metrics/; training and scoring use seggen_hf.metrics alone
    # The template and BLIP-2 need nothing more; current vision-language models want torchvision.
    "captions": ["torchvision"],
}

setup(
    name="seggen_hf",
    version="0.1.0.dev0",
    description="SegGen: text becomes masks, masks become images, and a segmenter trained with them becomes better",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    url=REPOSITORY,
    project_urls={
        "Documentation": f"{REPOSITORY}/tree/main/docs",
        "Changelog": f"{REPOSITORY}/blob/main/CHANGELOG.md",
        "Issues": f"{REPOSITORY}/issues",
        "Paper": "https://arxiv.org/abs/2311.03355",
    },
    keywords="segmentation synthetic-data diffusion mask2former sdxl controlnet",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        # Several stages at a time, and signals that end them, are POSIX.
        "Operating System :: POSIX :: Linux",
        "Operating System :: MacOS",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    install_requires=install_requires,
    extras_require=extras_require,
    entry_points={"console_scripts": ["seggen = seggen_hf.cli:main"]},
    package_dir={
        "": "src",
        "seggen_hf.pipelines": "pipelines",
        "seggen_hf.model_cards": "model_cards",
        "seggen_hf.metric_modules": "metrics",
        "seggen_hf.recipes": "training/recipes",
    },
    packages=[
        *find_packages("src"),
        "seggen_hf.pipelines",
        "seggen_hf.metric_modules",
        "seggen_hf.model_cards",
        "seggen_hf.recipes",
    ],
    package_data={
        "seggen_hf": ["py.typed", "*.pyi", "assets/**", "templates/**"],
        "seggen_hf.pipelines": ["*.pyi"],
        "seggen_hf.model_cards": ["*.md", "*.html"],
        "seggen_hf.metric_modules": ["*/*.py", "*/*.md"],
        "seggen_hf.recipes": ["*.yaml"],
    },
    zip_safe=False,
)
