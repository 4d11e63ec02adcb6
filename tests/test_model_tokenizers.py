"""Tokenizers of model folders: made here, in the files that Hugging Face and SentencePiece keep."""

import json

import numpy as np
import pytest

from agent_tunix import data, hugging_face
from agent_tunix import tokenizers as ours
from agent_tunix.errors import ModelError

WORDS = ["one", "two", "three", "plus", "is", "what", " ", "?", "system", "user", "model", "\n", "bad", ":"]
CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'critic' %}{{ raise_exception('no critic') }}{% endif %}"
    "<turn>{{ m.role }}:{{ m.content }}<end_of_turn>{% endfor %}{% if add_generation_prompt %}<turn>model:{% endif %}"
)


def folder_with(path, *, special, chat=None, generation=None, **names):
    """A folder with a tokenizer of words, special tokens first."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {text: index for index, text in enumerate(["<unk>", *special, *WORDS])}
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "<unk>"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"\w+|\W"), behavior="isolated")
    own.decoder = tokenizers.decoders.Fuse()
    own.add_special_tokens(list(special))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=own, unk_token="<unk>", **names)
    wrapped.chat_template = chat
    wrapped.save_pretrained(path)
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    return path


@pytest.fixture(scope="module")
def gemma_like(tmp_path_factory):
    special = ["<pad>", "<bos>", "<eos>", "<end_of_turn>", "<turn>"]
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    path = folder_with(tmp_path_factory.mktemp("gemma"), special=special, chat=CHAT, generation=[3, 4], **names)
    return ours.of_folder(path)


def test_ids_are_those_of_the_folder(gemma_like):
    assert isinstance(gemma_like, ours.HuggingFaceTokenizer)
    assert isinstance(gemma_like, ours.Tokenizer)
    ids = gemma_like.encode("two plus two")
    assert (gemma_like.pad_id(), gemma_like.bos_id(), gemma_like.eos_id()) == (1, 2, 3)
    assert gemma_like.decode([2, *ids, 3, 1]) == "two plus two"
    assert gemma_like.vocab_size == 6 + len(WORDS)
    assert gemma_like.stop_ids() == (3, 4)
    assert gemma_like.token_id("<end_of_turn>") == 4
    with pytest.raises(ValueError, match="is 3 tokens"):
        gemma_like.token_id("two plus")


def test_prompts_begin_where_the_model_says(gemma_like, tmp_path):
    rows = data.encode_prompts(gemma_like, ["two"], max_tokens=3, overlong="raise")
    np.testing.assert_array_equal(rows.ids, [[1, 2, gemma_like.encode("two")[0]]])
    special = ["<|endoftext|>", "<|im_end|>", "<|reserved_1|>"]
    path = folder_with(tmp_path, special=special, eos_token="<|im_end|>", pad_token="<|im_end|>")
    without = ours.of_folder(path)
    assert without.bos_id() is None
    rows = data.encode_prompts(without, ["two plus"], max_tokens=3, overlong="raise")
    assert rows.mask.all()
    rows = data.encode_prompts(without, ["two plus two"], max_tokens=3, overlong="truncate")
    assert (rows.truncated, without.decode(rows.ids[0])) == (1, "plus two"[-8:])


@pytest.mark.parametrize(
    ("special", "expected"),
    [
        (["<|eos|>", "<|finetune_right_pad_id|>", "<|reserved_special_token_0|>"], "<|finetune_right_pad_id|>"),
        (["<|eos|>", "<|reserved_special_token_0|>"], "<|reserved_special_token_0|>"),
        (["<|eos|>", "<unused3>", "<unused12>"], "<unused12>"),
    ],
)
def test_padding_never_ends_a_sequence(tmp_path, special, expected):
    path = folder_with(tmp_path, special=special, eos_token="<|eos|>", pad_token="<|eos|>")
    found = ours.of_folder(path)
    assert found.pad_id() == found.token_id(expected)
    assert found.pad_id() not in found.stop_ids()


def test_without_a_spare_token_there_is_no_padding(tmp_path):
    path = folder_with(tmp_path, special=["<|eos|>"], eos_token="<|eos|>", pad_token="<|eos|>")
    with pytest.raises(ModelError, match="no padding token that differs"):
        ours.of_folder(path)


def test_a_chat_is_written_by_the_models_template(gemma_like, tmp_path):
    text = gemma_like.chat([{"role": "user", "content": "what is one"}])
    assert text == "<turn>user:what is one<end_of_turn><turn>model:"
    assert gemma_like.encode(text)[0] == gemma_like.token_id("<turn>")
    with pytest.raises(ModelError, match="refuses the roles critic"):
        gemma_like.chat([{"role": "critic", "content": "bad"}])
    special = ["<|eos|>", "<pad>"]
    plain = ours.of_folder(folder_with(tmp_path, special=special, eos_token="<|eos|>", pad_token="<pad>"))
    with pytest.raises(ModelError, match="no chat template"):
        plain.chat([{"role": "user", "content": "one"}])


def test_the_fingerprint_follows_the_vocabulary(gemma_like, tmp_path):
    special = ["<pad>", "<bos>", "<eos>", "<turn>", "<end_of_turn>"]
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    other = ours.of_folder(folder_with(tmp_path, special=special, **names))
    assert other.fingerprint() != gemma_like.fingerprint()


def test_sentencepiece_models_are_read(tmp_path):
    import sentencepiece

    text = tmp_path / "text.txt"
    text.write_text("one two three plus two is what\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "tokenizer"), vocab_size=40, hard_vocab_limit=False,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, user_defined_symbols=["<end_of_turn>"], minloglevel=2,
    )  # fmt: skip
    found = ours.of_folder(tmp_path)
    assert isinstance(found, ours.SentencePieceTokenizer)
    assert (found.pad_id(), found.eos_id(), found.bos_id()) == (0, 1, 2)
    assert found.decode(found.encode("two plus three")) == "two plus three"
    assert found.stop_ids() == (1, found.token_id("<end_of_turn>"))
    assert found.fingerprint() == ours.of_folder(tmp_path).fingerprint()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (None, "", "no tokenizer.json and no tokenizer.model"),
        ("tokenizer.json", "{", "could not be read"),
        ("tokenizer.model", "no model", "could not be read as a SentencePiece model"),
    ],
)
def test_a_broken_tokenizer_is_told_in_one_line(tmp_path, name, content, words):
    if name:
        (tmp_path / name).write_text(content)
    with pytest.raises(ModelError, match=words) as caught:
        ours.of_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_character_tokenizer_travels(tmp_path):
    own = ours.CharacterTokenizer()
    hugging_face.write_tokenizer(tmp_path, own)
    found = ours.of_folder(tmp_path)
    text = "<reasoning>1 + 1 is <2>\n</reasoning><answer>2</answer>"
    assert found.encode(text) == own.encode(text)
    assert found.decode(own.encode(text)) == text
    assert (found.pad_id(), found.bos_id(), found.eos_id()) == (0, 1, 2)
    assert found.vocab_size == own.vocab_size
