"""Text to token ids and back: one small interface, and three tokenizers behind it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, SupportsIndex, runtime_checkable

from agent_tunix.errors import ModelError
from agent_tunix.tokenizers._characters import TAGS, CharacterTokenizer
from agent_tunix.tokenizers._hugging_face import HuggingFaceTokenizer
from agent_tunix.tokenizers._sentencepiece import SentencePieceTokenizer

__all__ = ["TAGS", "CharacterTokenizer", "HuggingFaceTokenizer", "SentencePieceTokenizer", "Tokenizer", "of_folder"]


@runtime_checkable
class Tokenizer(Protocol):
    """What the package, and Tunix's samplers, call on a tokenizer.

    `encode` adds neither a beginning- nor an end-of-sequence token; whoever lays out a sequence adds them.
    """

    @property
    def vocab_size(self) -> int:
        """Number of token ids; they run from 0."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ...

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Text of token ids."""
        ...

    def pad_id(self) -> int:
        """Id that fills up a row; never one that begins or ends a sequence."""
        ...

    def bos_id(self) -> int | None:
        """Id that begins a sequence, or None where sequences begin with their text."""
        ...

    def eos_id(self) -> int:
        """Id that ends a sequence."""
        ...

    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a completion: that of `eos_id`, and of the end of a turn where there is one."""
        ...

    def token_id(self, text: str) -> int:
        """Id of a string that is exactly one token."""
        ...

    def fingerprint(self) -> str:
        """Hexadecimal digest that changes when the vocabulary does."""
        ...


def of_folder(folder: str | Path) -> Tokenizer:
    """The tokenizer of a model folder: of `tokenizer.json` and its companions, else of `tokenizer.model`.

    Raises:
      ModelError: If the folder has neither, or what it has cannot be read.
    """
    folder = Path(folder).expanduser()
    if any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return HuggingFaceTokenizer(folder)
    if (folder / "tokenizer.model").is_file():
        return SentencePieceTokenizer(folder / "tokenizer.model")
    raise ModelError(f"{folder} has no tokenizer.json and no tokenizer.model; copy the tokenizer beside the weights")
