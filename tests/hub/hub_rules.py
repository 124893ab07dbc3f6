"""What the Hub decides by itself: which files are large or ignored, which cards are right, what a card tells."""

import codecs
import json
import re
from fnmatch import fnmatch

import yaml

LFS_SIZE = 10 << 20  # bytes from which a file cannot be a regular one
SUFFIXES = (
    "7z arrow bin bz2 ckpt ftz gz h5 joblib lfs.* mlmodel model msgpack npy npz onnx ot parquet pb pickle pkl pt pth "
    "rar safetensors tar tflite tgz wasm xz zip zst"
).split()
DATASET_SUFFIXES = "pcm sam raw aac flac mp3 ogg wav bmp gif png tiff jpg jpeg webp mp4 webm".split()
YAML_BLOCK = re.compile(r"^\s*---(?:\r\n|\r|\n)([\S\s]*?)(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|$)")
# From huggingface.co/docs/hub/repositories-licenses, from memory.
LICENSES = frozenset(
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m "
    "afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 "
    "cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 "
    "cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 "
    "gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl apple-ascl mpl-2.0 odc-by odbl openrail++ "
    "osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license llama2 llama3 llama3.1 llama3.2 "
    "llama3.3 gemma unknown other".split()
)


def default_attributes(kind: str) -> bytes:
    """The .gitattributes of a new repository."""
    patterns = [f"*.{suffix}" for suffix in SUFFIXES + (DATASET_SUFFIXES if kind == "datasets" else [])]
    patterns += ["saved_model/**/*", "*tfevents*"]
    return "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in patterns).encode()


def matches(path: str, pattern: str) -> bool:
    """Near enough to git: a pattern without a slash is for names anywhere, one ending in a slash for folders."""
    if pattern.endswith("/"):
        return any(fnmatch(part, pattern[:-1].lstrip("/")) for part in path.split("/")[:-1])
    return fnmatch(path if "/" in pattern else path.rsplit("/", 1)[-1], pattern.lstrip("/").replace("**/", "*"))


def is_lfs(path: str, size: int, sample: bytes, attributes: str) -> bool:
    """`sample` is the beginning of the content, which may end within a character."""
    if size == 0:
        return False
    for line in attributes.splitlines():
        pattern, *settings = line.split() or [""]
        if "filter=lfs" in settings and matches(path, pattern):
            return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample, final=size <= len(sample))
    except UnicodeDecodeError:
        return True
    return size >= LFS_SIZE


def is_ignored(path: str, gitignore: str) -> bool:
    ignored = False
    for line in gitignore.splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#") and matches(path, pattern.removeprefix("!")):
            ignored = not pattern.startswith("!")
    return ignored


def card_data(text: str) -> dict:
    """The metadata of a card, empty where there is none that can be read."""
    found = YAML_BLOCK.search(text)
    try:
        data = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        data = None
    return json.loads(json.dumps(data, default=str)) if isinstance(data, dict) else {}


def check_card(text: str, repo_type: str) -> tuple[list[str], list[str]]:
    """Errors and warnings about the metadata of a card."""
    found = YAML_BLOCK.search(text)
    if not found:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        return [f"YAML Metadata Error: {error}"], []
    if data is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(data, dict):
        return ["YAML Metadata Error: metadata must be a mapping"], []
    errors = []
    licenses = data.get("license", [])
    for name in licenses if isinstance(licenses, list) else [licenses]:
        if name not in LICENSES:
            errors.append(f'"license" must be one of [{", ".join(sorted(LICENSES))}], not {name!r}')
    for key in ("tags", "datasets", "metrics", "language", "base_model"):
        value = data.get(key, [])
        one_will_do = key in ("language", "base_model") and isinstance(value, str)
        if not one_will_do and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            errors.append(f'"{key}" must be an array of strings')
    for key in ("pipeline_tag", "library_name", "pretty_name"):
        if not isinstance(data.get(key, ""), str):
            errors.append(f'"{key}" must be a string')
    if repo_type == "model":
        errors += _check_model_index(data.get("model-index", []))
    if repo_type == "dataset":
        configs = data.get("configs", [])
        if not isinstance(configs, list) or not all(isinstance(c, dict) and c.get("config_name") for c in configs):
            errors.append('"configs" must be an array of objects with a "config_name"')
    return errors, []


def _check_model_index(index) -> list[str]:
    if not isinstance(index, list):
        return ['"model-index" must be an array']
    errors = []
    for i, model in enumerate(index):
        if not isinstance(model, dict) or not isinstance(model.get("name"), str):
            errors.append(f'"model-index[{i}].name" is required')
            continue
        for j, result in enumerate(model.get("results") or []):
            where = f"model-index[{i}].results[{j}]"
            dataset, metrics = result.get("dataset"), result.get("metrics")
            if not (result.get("task") or {}).get("type"):
                errors.append(f'"{where}.task.type" is required')
            if dataset is not None and not (dataset.get("type") and dataset.get("name")):
                errors.append(f'"{where}.dataset" needs "type" and "name"')
            if not metrics or not all("type" in m and "value" in m for m in metrics):
                errors.append(f'"{where}.metrics" needs "type" and "value"')
    return errors


def describe(kind: str, data: dict, names: set[str]) -> dict:
    """What the Hub reads from a card and from the names of files: library_name, pipeline_tag, tags."""
    guesses = {"model_index.json": "diffusers", "adapter_config.json": "peft", "config.json": "transformers"}
    library = data.get("library_name") or next((guesses[name] for name in guesses if name in names), None)
    tags = [library] if library and kind == "models" else []
    tags += data.get("tags") if isinstance(data.get("tags"), list) else []
    for key in ("base_model", "datasets", "license", "language"):
        values = data.get(key, [])
        label = {"datasets": "dataset:", "language": ""}.get(key, f"{key}:")
        tags += [f"{label}{value}" for value in (values if isinstance(values, list) else [values])]
    tag = data.get("pipeline_tag")
    facts = {"tags": list(dict.fromkeys(tags + ([tag] if tag else []) + ["region:us"]))}
    if kind == "models":
        facts |= {name: value for name, value in (("library_name", library), ("pipeline_tag", tag)) if value}
        if "model-index" in data:
            facts["model-index"] = data["model-index"]
    return facts
