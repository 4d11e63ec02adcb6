"""SentencePiece models, as Kaggle keeps them for Gemma."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, SupportsIndex

from agent_tunix.errors import ModelError

TURN_END = "<end_of_turn>"


class SentencePieceTokenizer:
    """A SentencePiece model of one file.

    Args:
      path: `tokenizer.model`.

    Raises:
      ModelError: If it cannot be read, or has no tokens for padding and the end of a sequence.
    """

    def __init__(self, path: str | Path) -> None:
        import sentencepiece

        self._path = Path(path)
        try:
            self._processor: Any = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise ModelError(f"{path} could not be read as a SentencePiece model: {error}") from error
        if min(self._processor.pad_id(), self._processor.eos_id()) < 0:
            raise ModelError(f"{path} lacks a token for padding or for the end of a sequence; train it with pad_id=0")

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self._processor.vocab_size()

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return self._processor.encode(text)

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Text of token ids; control tokens are dropped."""
        return self._processor.decode([int(index) for index in ids])

    def pad_id(self) -> int:
        """Id that fills up a row."""
        return self._processor.pad_id()

    def bos_id(self) -> int | None:
        """Id that begins a sequence, or None where the model has none."""
        found = self._processor.bos_id()
        return found if found >= 0 else None

    def eos_id(self) -> int:
        """Id that ends a sequence."""
        return self._processor.eos_id()

    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a completion: of the end of a sequence, and of a turn where there is one."""
        turn = self._processor.piece_to_id(TURN_END)
        known = turn != self._processor.unk_id()
        return (self.eos_id(), turn) if known else (self.eos_id(),)

    def token_id(self, text: str) -> int:
        """Id of a string that is exactly one token, for stop strings.

        Raises:
          ValueError: The string is none, or several tokens.
        """
        found = self._processor.piece_to_id(text)
        if found != self._processor.unk_id():
            return found
        ids = self.encode(text)
        if len(ids) != 1:
            raise ValueError(f"{text!r} is {len(ids)} tokens of {self._path.name}; give a string that is one")
        return ids[0]

    def fingerprint(self) -> str:
        """SHA-256 of the model, as hexadecimal digits."""
        return hashlib.sha256(self._processor.serialized_model_proto()).hexdigest()
