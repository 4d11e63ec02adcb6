"""The character-level tokenizer of `tiny()`."""

import hashlib
import json
import re
from collections.abc import Iterable
from typing import SupportsIndex

TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
"""Strings of the answer format that are one token each."""

_CONTROL = ("<pad>", "<bos>", "<eos>", "<unknown>")
_CHARACTERS = ("\n", *map(chr, range(32, 127)))
_REPLACEMENT = "\ufffd"


class CharacterTokenizer:
    """One token per printable ASCII character or newline, and one for each tag of the answer format.

    Ids 0 to 3 are pad, beginning, end and unknown; no text encodes to the first three, so that a prompt cannot end a
    sequence. Then come the tags, the newline and the characters 32 to 126: 104 ids in all.

    A policy may also spell a tag character by character. Such ids decode to the same text but are not what `encode`
    gives for it, so sampled ids must be kept, not encoded again.

    Examples:
      >>> tokenizer = CharacterTokenizer()
      >>> tokenizer.encode("<answer>12</answer>")
      [6, 26, 27, 7]
      >>> tokenizer.decode([1, 6, 26, 27, 7, 2, 0])
      '<answer>12</answer>'
    """

    def __init__(self):
        self._texts = ("", "", "", _REPLACEMENT, *TAGS, *_CHARACTERS)
        self._ids = {text: index for index, text in enumerate(self._texts) if index > 3}
        # Longest first: where one tag begins another, the longer one is meant.
        longest_first = sorted(TAGS, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")").split

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return len(self._texts)

    @property
    def texts(self) -> tuple[str, ...]:
        """What ids from 4 on stand for: tags, newline and characters."""
        return self._texts[4:]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; characters outside the vocabulary become the unknown token."""
        lookup, ids = self._ids.get, []
        # `split` on a captured group puts the tags at the odd places.
        for place, piece in enumerate(self._split(text)):
            if place % 2:
                ids.append(self._ids[piece])
            else:
                ids.extend([lookup(character, 3) for character in piece])
        return ids

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Text of token ids: pad, beginning and end are dropped, the unknown token is U+FFFD.

        Raises:
          ValueError: An id outside the vocabulary, such as a logit of a padded embedding row would give.
        """
        indices = [int(index) for index in ids]
        for index in indices and (min(indices), max(indices)):
            if not 0 <= index < len(self._texts):
                raise ValueError(f"token id {index} is outside the vocabulary of {len(self._texts)} ids")
        return "".join([self._texts[index] for index in indices])

    def pad_id(self) -> int:
        """Id that fills up a row: 0."""
        return 0

    def bos_id(self) -> int:
        """Id that begins a sequence: 1."""
        return 1

    def eos_id(self) -> int:
        """Id that ends a sequence: 2."""
        return 2

    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a completion: 2."""
        return (self.eos_id(),)

    def token_id(self, text: str) -> int:
        """Id of a string that is exactly one token, for stop strings.

        Raises:
          ValueError: The string is none, or several tokens, or not in the vocabulary.
        """
        if text in self._ids:
            return self._ids[text]
        raise ValueError(
            f"{text!r} is not a single token of the character tokenizer; "
            f"single tokens are {', '.join(TAGS)}, the newline and each printable ASCII character"
        )

    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary in order, as hexadecimal digits."""
        return hashlib.sha256(json.dumps([*_CONTROL, *self._texts[4:]]).encode()).hexdigest()
