"""The character tokenizer: its ids, its round trip and its refusals."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix.tokenizers import TAGS, CharacterTokenizer, Tokenizer

TOKENIZER = CharacterTokenizer()
PIECES = st.one_of(st.sampled_from(TAGS), st.characters(min_codepoint=32, max_codepoint=126), st.just("\n"))


def test_ids_are_laid_out_as_documented():
    assert (TOKENIZER.pad_id(), TOKENIZER.bos_id(), TOKENIZER.eos_id()) == (0, 1, 2)
    # 4..7 tags, 8 newline, 9 space (character 32), so a character c has id ord(c) - 23: "1" is 26, "~" is 103.
    assert TOKENIZER.encode("<reasoning></reasoning><answer></answer>\n 1~") == [4, 5, 6, 7, 8, 9, 26, 103]
    assert TOKENIZER.vocab_size == 104


def test_tag_next_to_angle_brackets_is_still_one_token():
    assert TOKENIZER.encode("<<answer>>") == [ord("<") - 23, 6, ord(">") - 23]
    assert TOKENIZER.encode("<answer") == [ord(c) - 23 for c in "<answer"]


def test_character_outside_the_vocabulary_is_unknown_and_shown_as_replacement():
    assert TOKENIZER.encode("é\t€") == [3, 3, 3]
    assert TOKENIZER.decode(TOKENIZER.encode("aé")) == "a\ufffd"


def test_names_of_control_tokens_are_plain_text():
    assert {0, 1, 2}.isdisjoint(TOKENIZER.encode("<pad><bos><eos></s>"))


@given(st.lists(PIECES).map("".join))
def test_decoding_undoes_encoding(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.text())
def test_no_text_encodes_to_pad_beginning_or_end(text):
    ids = TOKENIZER.encode(text)
    assert all(3 <= index < 104 for index in ids) and len(ids) <= len(text)


def test_pad_beginning_and_end_are_dropped_from_arrays_too():
    assert TOKENIZER.decode(np.array([0, 0, 1, 26, 27, 2, 0], np.int32)) == "12"
    assert TOKENIZER.decode([]) == ""


@pytest.mark.parametrize("index", [-1, 104])
def test_id_outside_the_vocabulary_is_refused(index):
    with pytest.raises(ValueError, match=f"token id {index} is outside the vocabulary of 104 ids"):
        TOKENIZER.decode([26, index])


def test_single_token_strings_have_an_id_and_others_are_named():
    assert TOKENIZER.token_id("</answer>") == 7 and TOKENIZER.token_id("\n") == 8
    for text in ("", "12", "é", "<eos>", "\ufffd"):
        with pytest.raises(ValueError, match="not a single token"):
            TOKENIZER.token_id(text)


def test_fingerprint_is_the_same_in_another_process():
    code = "from agent_tunix.tokenizers import CharacterTokenizer; import sys; " \
        "sys.stdout.write(CharacterTokenizer().fingerprint())"  # fmt: skip
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout == TOKENIZER.fingerprint()
    assert len(other.stdout) == 64 and int(other.stdout, 16)


def test_interface_is_the_one_of_the_package_and_of_tunix():
    assert isinstance(TOKENIZER, Tokenizer)
    # The methods that tunix.generate.tokenizer_adapter.TokenizerAdapter looks for.
    assert all(callable(getattr(TOKENIZER, name)) for name in ("encode", "decode", "bos_id", "eos_id", "pad_id"))
