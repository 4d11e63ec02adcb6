"""The character-level tokenizer in the files of Hugging Face, so that an exported tiny policy runs elsewhere too."""

import json
import re
from pathlib import Path

from agent_tunix.tokenizers import CharacterTokenizer

CONTROL = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unknown>"}
"""Ids 0 to 3. Unlike ours, tokenizers of Hugging Face read these four where a text spells them out."""


def write_tokenizer(folder: Path, tokenizer: CharacterTokenizer) -> None:
    """Writes `tokenizer.json`, its companions and `generation_config.json`."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    texts = [*CONTROL.values(), *tokenizer.texts]
    own = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({text: index for index, text in enumerate(texts)}, CONTROL["unk_token"])
    )
    longest_first = sorted((text for text in tokenizer.texts if len(text) > 1), key=len, reverse=True)
    pieces = tokenizers.Regex("|".join([*map(re.escape, longest_first), r"[\s\S]"]))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Split(pieces, behavior="isolated")
    own.decoder = tokenizers.decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=own, **CONTROL).save_pretrained(folder)
    ids = {"bos_token_id": tokenizer.bos_id(), "eos_token_id": tokenizer.eos_id(), "pad_token_id": tokenizer.pad_id()}
    (folder / "generation_config.json").write_text(json.dumps(ids, indent=2) + "\n", encoding="utf-8")
