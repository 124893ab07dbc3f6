"""Clauses about light, weather and the like: kept lists, or those of a language model; and other numbers of things."""

import json
import logging
from collections import Counter

import pytest
import torch
import transformers
from makers import CATEGORIES
from synthesis_settings import SIZE, make_config
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from seggen_hf.config import SynthesisConfig
from seggen_hf.labels import LabelSet
from seggen_hf.synthesis import synthesize
from seggen_hf.synthesis.manifest import SynthesisPlan, density_words, draw_density
from seggen_hf.synthesis.styles import CLAUSES, _question, read_clauses, write_clauses

LABELS = LabelSet.from_dict(CATEGORIES)  # sky, road, car
ANSWER = '1. In pale moonlight\n2. "under street lamps".\n- at noon\nbehind a car\nat noon\n\n'


def test_an_answer_is_read_line_by_line():
    assert read_clauses(ANSWER, LABELS) == ["in pale moonlight", "under street lamps", "at noon"]
    assert read_clauses("one " * 9 + "\nover two roads\n3) in haze\n• at sea", LABELS) == ["in haze", "at sea"]
    assert read_clauses("", LABELS) == [] and len(read_clauses("\n".join(map(str, "abcdefghijk")), LABELS)) == 8


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """A language model of transformers that has learnt to answer the question about light, byte by byte."""
    folder = tmp_path_factory.mktemp("writer")
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {"<pad>": 0, "<end>": 1} | {letter: i + 2 for i, letter in enumerate(sorted(alphabet))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")
    turns = "{% for turn in messages %}{{ turn['content'] }}{% endfor %}"
    fast.chat_template = turns + "{% if add_generation_prompt %}{{ '\n> ' }}{% endif %}"
    config = transformers.LlamaConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=len(vocabulary),
        bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    question = fast(_question("light", LABELS) + "\n> ", return_tensors="pt").input_ids
    answer = torch.cat([fast(ANSWER, return_tensors="pt").input_ids, torch.tensor([[1]])], 1)
    tokens = torch.cat([question, answer], 1)
    wanted = torch.where(torch.arange(tokens.shape[1]) < question.shape[1], -100, tokens)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(400):
        output = model(input_ids=tokens, labels=wanted)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        if output.loss < 1e-3:
            break
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def test_a_language_model_writes_clauses(writer):
    found = write_clauses(str(writer), ["light"], LABELS)
    assert found == {"light": ["in pale moonlight", "under street lamps", "at noon"]}


def run(folder, scene_records, generators, **settings):
    config = make_config(imgsyn_variants=6, masksyn_variants=0, shard_size=4, caption_style_share=1.0, **settings)
    return synthesize(scene_records.select([0, 1]), folder, config, **generators, **SIZE)


@pytest.mark.slow
def test_captions_end_with_clauses_of_the_attributes(scene_records, generators, tmp_path):
    made = run(tmp_path, scene_records, generators, caption_styles=["in fog"], caption_attributes=["viewpoint"])
    clauses = {"in fog", *CLAUSES["viewpoint"]}
    assert all(any(caption.endswith(f", {clause}") for clause in clauses) for caption in made["caption"])
    assert len({caption.rsplit(", ", 1)[1] for caption in made["caption"]}) > 2


@pytest.mark.slow
def test_what_was_written_is_kept_and_not_asked_for_again(scene_records, generators, writer, tmp_path, caplog):
    """The model here answers another label set's question with noise: the kept list of weather stands in."""
    from seggen_hf.data.schema import labels_of

    settings = {"caption_attributes": ["light"], "style_writer": str(writer)}
    with caplog.at_level(logging.WARNING):
        first = run(tmp_path / "out", scene_records, generators, **settings)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())["fingerprint"]
    written = write_clauses(str(writer), ["light"], labels_of(scene_records))["light"]
    expected = written if len(written) > 1 else list(CLAUSES["light"])
    assert manifest["caption_styles"] == expected and manifest["style_writer"] == writer.name
    assert (len(written) < 2) == ("wrote no clauses about the light" in caplog.text)
    shard = next((tmp_path / "out" / "data").glob("*.parquet"))
    shard.unlink()
    (writer / "model.safetensors").rename(writer / "gone")  # goes on without it
    try:
        again = run(tmp_path / "out", scene_records, generators, **settings)
    finally:
        (writer / "gone").rename(writer / "model.safetensors")
    assert again["caption"][:] == first["caption"][:]


CAPTIONS = ["a photo of sky, car (one)", "a photo of road, car (many)", "a photo of sky"]


def test_other_numbers_of_things_are_drawn_from_those_there_are():
    words = density_words(CAPTIONS)
    assert words == ["one", "many"]
    drawn = Counter(draw_density(CAPTIONS[0], words, 0.5, seed) for seed in range(2000))
    assert set(drawn) == {CAPTIONS[0], "a photo of sky, car (many)"}
    assert 400 < drawn["a photo of sky, car (many)"] < 600  # half of the share
    assert {draw_density(CAPTIONS[2], words, 1.0, seed) for seed in range(9)} == {CAPTIONS[2]}
    assert {draw_density(CAPTIONS[0], words, 0.0, seed) for seed in range(9)} == {CAPTIONS[0]}


def test_only_drawn_maps_get_another_number_of_things():
    config = SynthesisConfig(masksyn_variants=20, imgsyn_variants=20, density_share=1.0)
    plan = SynthesisPlan(list("abc"), CAPTIONS, config)
    assert {plan.sample("imgsyn", i).caption for i in range(60)} == set(CAPTIONS)
    made = [plan.sample("masksyn", i) for i in range(20)]
    assert {sample.map_caption for sample in made} == {CAPTIONS[0], "a photo of sky, car (many)"}
    assert all(sample.caption == sample.map_caption for sample in made)  # the image shows what the map does
    with pytest.raises(ValueError, match="no caption tells one"):
        SynthesisPlan(["a"], ["a photo"], config)
    SynthesisPlan(["a"], ["a photo"], SynthesisConfig(masksyn_variants=0, density_share=1.0))


def test_a_writer_needs_something_to_write_of():
    with pytest.raises(ValueError, match="no caption_attributes"):
        SynthesisConfig(style_writer="x")
    with pytest.raises(ValueError, match="taken from"):
        SynthesisConfig(caption_attributes=["mood"])
