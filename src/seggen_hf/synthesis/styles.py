"""Closing clauses of captions for attributes that a generator may vary: kept lists, or written by a language model."""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ..config import SynthesisConfig
from ..data.captions import simple_name
from ..labels import LabelSet
from ..provenance import public_value
from .manifest import MANIFEST
from .plausibility import named_labels

logger = logging.getLogger(__name__)

CLAUSES = {
    "light": ("in bright sunlight", "at dawn", "at dusk", "at night", "in soft light", "in hard light", "backlit"),
    "weather": ("on a clear day", "under a cloudy sky", "in rain", "in fog", "in snow", "after rain"),
    "viewpoint": ("seen from above", "seen from below", "seen from the side", "from far away", "close up"),
    "material": ("with wet surfaces", "with dusty surfaces", "with worn surfaces", "with shiny surfaces"),
}
NUMBER = 8  # clauses that a language model is asked for
WORDS = 8  # of the longest clause that is taken
NAMED = 20  # labels that the question names


def with_styles(config: SynthesisConfig, labels: LabelSet, folder: Path, accelerator: Accelerator) -> SynthesisConfig:
    """`config` with the clauses of its `caption_attributes` among its `caption_styles`.

    Collective: one process asks the language model, if `style_writer` names one; what a begun synthesis in `folder`
    was told before is taken from there. Of an attribute for which the model writes fewer than two clauses that can
    serve, the kept list is used.
    """
    if not config.caption_attributes:
        return config
    clauses = (_begun(config, folder) or _clauses(config, labels)) if accelerator.is_main_process else []
    told = [clauses]
    broadcast_object_list(told)  # in place
    return replace(config, caption_styles=list(dict.fromkeys([*config.caption_styles, *told[0]])))


def _begun(config: SynthesisConfig, folder: Path) -> list[str] | None:
    """The clauses of the manifest in `folder`, if they are of the same attributes and writer."""
    path = folder / MANIFEST
    begun = json.loads(path.read_text())["fingerprint"] if path.is_file() else {}
    asked = (config.caption_attributes, public_value(config.style_writer))
    return begun["caption_styles"] if (begun.get("caption_attributes"), begun.get("style_writer")) == asked else None


def _clauses(config: SynthesisConfig, labels: LabelSet) -> list[str]:
    if not config.style_writer:
        return [clause for name in config.caption_attributes for clause in CLAUSES[name]]
    found: list[str] = []
    for name, clauses in write_clauses(config.style_writer, config.caption_attributes, labels).items():
        if len(clauses) < 2:
            logger.warning("%s wrote no clauses about the %s; the kept ones are used.", config.style_writer, name)
        found += clauses if len(clauses) > 1 else CLAUSES[name]
    return found


def write_clauses(
    name_or_path: str, attributes: Sequence[str], labels: LabelSet, max_new_tokens: int = 160
) -> dict[str, list[str]]:
    """`{attribute: clauses}` by a causal language model of transformers: Hub id or folder, best one that was tuned to
    follow instructions. Decoding is greedy, hence deterministic.

    Clauses that name a label are left out: they would ask for what is not in the map.
    """
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(name_or_path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(name_or_path, dtype=dtype, use_safetensors=True)
    model.to(device).eval()
    found = {}
    for attribute in attributes:
        question = _question(attribute, labels)
        if tokenizer.chat_template:
            chat = [{"role": "user", "content": question}]
            question = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        inputs = tokenizer(question, return_tensors="pt", add_special_tokens=not tokenizer.chat_template).to(device)
        with torch.inference_mode():
            tokens = model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=max_new_tokens)
        said = tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        found[attribute] = read_clauses(said, labels)
    return found


def _question(attribute: str, labels: LabelSet) -> str:
    names = list(dict.fromkeys(simple_name(name) for name in labels.id2label.values()))[:NAMED]
    examples = ", ".join(f'"{clause}"' for clause in CLAUSES[attribute][:3])
    return (
        f"Captions of photos that show {', '.join(names)} shall end with a short clause about the {attribute}, such "
        f"as {examples}. Write {NUMBER} such clauses, of at most five words each, one a line, and nothing else."
    )


def read_clauses(text: str, labels: LabelSet) -> list[str]:
    """The clauses in a language model's answer: a line each, without numbers, bullets, quotes and full stops."""
    found = []
    for line in text.splitlines():
        clause = re.sub(r"^\s*(?:[-*•]|\d+[.):])?\s*", "", line).strip(" \t\"'“”.,;:")
        clause = clause[:1].lower() + clause[1:]
        if clause and len(clause.split()) <= WORDS and clause.isprintable() and not named_labels(clause, labels):
            found.append(clause)
    return list(dict.fromkeys(found))[:NUMBER]
