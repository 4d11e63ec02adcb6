"""Tokenizers as Hugging Face keeps them."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

from agent_tunix.errors import ModelError

PADS = ("<|finetune_right_pad_id|>", "<pad>", "[PAD]", "<|pad|>", "<|vision_pad|>", "<|image_pad|>")
"""Tokens that models keep for padding, or for inputs that text never holds, in the order they are tried."""
SPARE = re.compile(r"<\|?(reserved_special_token_|reserved_|unused|extra_)\w*\|?>")
"""Tokens that vocabularies leave free."""
DATE = "26 Jul 2024"
"""What templates that tell the date are given, Llama 3's own default: a run must not change from day to day."""
TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<turn|>", "<|eom_id|>")
"""Tokens that end a turn of a chat, of the families that Tunix has."""


class HuggingFaceTokenizer:
    """The tokenizer of a model folder, through `transformers`.

    The padding token is the folder's own where that is distinct from those that begin and end a sequence. Many models
    name the same token for padding and for the end; loops that tell padding by its id then never teach a policy to
    stop, so another token that no text holds is taken.

    Args:
      folder: With `tokenizer.json`, `tokenizer_config.json` and what belongs to them.

    Raises:
      ModelError: If they cannot be read, no token ends a sequence, or none is left for padding.
    """

    def __init__(self, folder: str | Path) -> None:
        from transformers import AutoTokenizer

        self._folder = Path(folder)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"the tokenizer of {folder} could not be read: {reason}") from error
        if self._tokenizer.eos_token_id is None:
            raise ModelError(f"the tokenizer of {folder} names no eos_token; add it to tokenizer_config.json")
        self._vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        self._stops = self._found_stops()
        self._pad = self._found_pad()

    @property
    def vocab_size(self) -> int:
        """Number of token ids, added ones included."""
        return max(self._vocabulary.values()) + 1

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; special tokens that it spells out, as chat templates do, are those tokens."""
        return self._tokenizer.encode(text, add_special_tokens=False)

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Text of token ids, without special tokens."""
        return self._tokenizer.decode([int(index) for index in ids], skip_special_tokens=True)

    def pad_id(self) -> int:
        """Id that fills up a row."""
        return self._pad

    def bos_id(self) -> int | None:
        """Id that begins a sequence, or None where the model has none, such as Qwen."""
        return self._tokenizer.bos_token_id

    def eos_id(self) -> int:
        """Id that ends a sequence."""
        return self._tokenizer.eos_token_id

    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a completion: of `generation_config.json`, of the end of a sequence and of a turn."""
        return self._stops

    def token_id(self, text: str) -> int:
        """Id of a string that is exactly one token, for stop strings.

        Raises:
          ValueError: The string is none, or several tokens.
        """
        ids = [self._vocabulary[text]] if text in self._vocabulary else self.encode(text)
        if len(ids) != 1:
            raise ValueError(f"{text!r} is {len(ids)} tokens of {self._folder.name}; give a string that is one")
        return ids[0]

    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary and the special tokens, as hexadecimal digits."""
        parts = [sorted(self._vocabulary.items()), self.bos_id(), self._stops, self._pad]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def has_chat_template(self) -> bool:
        """Whether the folder says how a chat is written out."""
        return bool(self._tokenizer.chat_template)

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A chat written out by the model's own template, up to where the model answers.

        The token that begins a sequence is left out, since `encode_prompts` puts it before every prompt.

        Args:
          messages: Each with `role` and `content`.

        Raises:
          ModelError: If the model has no template, or the template refuses the roles.
        """
        if not self.has_chat_template:
            raise ModelError(f"{self._folder.name} has no chat template; give prompts as text, or an instruct model")
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True, date_string=DATE
            )
        except Exception as error:  # templates raise what their authors chose
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise ModelError(f"the chat template of {self._folder.name} refuses the roles {roles}: {error}") from error
        return text.removeprefix(self._tokenizer.bos_token or "")

    def _found_stops(self) -> tuple[int, ...]:
        path, given = self._folder / "generation_config.json", None
        if path.is_file():
            given = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        listed = [given] if isinstance(given, int) else list(given or ())
        turns = [self._vocabulary[token] for token in TURN_ENDS if token in self._vocabulary]
        return tuple(dict.fromkeys([self.eos_id(), *listed, *turns]))

    def _found_pad(self) -> int:
        taken = {self.bos_id(), *self._stops}
        own = self._tokenizer.pad_token_id
        if own is not None and own not in taken:
            return own
        spare = sorted(token for token in self._vocabulary if SPARE.fullmatch(token))
        for token in (*PADS, *spare):
            if self._vocabulary.get(token, self.eos_id()) not in taken:
                return self._vocabulary[token]
        raise ModelError(
            f"the tokenizer of {self._folder} has no padding token that differs from its end of sequence; name a token "
            "that no text holds as pad_token in tokenizer_config.json"
        )
