"""What a model is shown of a row: its prompt, behind a system prompt and worked examples, as text or as a chat.

Rewards, samples and reports go on to see the prompt of the row alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from agent_tunix.data import MESSAGES
from agent_tunix.errors import ConfigError, ModelError
from agent_tunix.types import Row

Layout = Callable[[Row], str]
"""From a row to the text that is encoded."""

ANSWER_FORMAT = (
    "Think about the question between <reasoning> and </reasoning>. Then give the final answer alone between <answer> "
    "and </answer>."
)
"""The system prompt that `data.system_prompt=auto` gives to pretrained models."""


class Chats(Protocol):
    """A tokenizer that knows how its model writes a chat."""

    @property
    def has_chat_template(self) -> bool:
        """Whether it does."""
        ...

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A chat, up to where the model answers."""
        ...


def plain(row: Row) -> str:
    """The prompt as it is."""
    return row["prompt"]


def layout(
    tokenizer: Any, *, system_prompt: str | None = None, examples: Sequence[Row] = (), chat: bool = True
) -> Layout:
    """How rows are laid out for a model.

    Args:
      tokenizer: Where it has a chat template, that is used.
      system_prompt: Stands first; None leaves it out.
      examples: Rows whose prompts and demonstrations are shown before each row.
      chat: Whether to use the template, if there is one.

    Raises:
      ConfigError: If an example has no demonstration.
    """
    for row in examples:
        if not row.get("demonstration"):
            raise ConfigError(
                f"data.few_shot shows rows with a demonstration, but `{row['prompt'][:40]}` has none; set "
                "data.few_shot=0"
            )
    if chat and getattr(tokenizer, "has_chat_template", False):
        return _as_chat(tokenizer, system_prompt, examples)
    if system_prompt is None and not examples:
        return plain
    shown = [f"{row['prompt']}\n{row['demonstration']}" for row in examples]
    before = "\n\n".join([*([system_prompt] if system_prompt else []), *shown])
    return lambda row: f"{before}\n\n{row['prompt']}\n"


def _as_chat(tokenizer: Chats, system_prompt: str | None, examples: Sequence[Row]) -> Layout:
    shown = [
        {"role": role, "content": content}
        for row in examples
        for role, content in (("user", row["prompt"]), ("assistant", row["demonstration"]))
    ]
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    merged = bool(system) and not _takes_system(tokenizer)

    def write(row: Row) -> str:
        own = row.get(MESSAGES) or [{"role": "user", "content": row["prompt"]}]
        # A chat of its own may bring its own system prompt.
        messages = [*([] if own[0]["role"] == "system" else system), *shown, *own]
        return tokenizer.chat(_merged(messages) if merged else messages)

    return write


def _takes_system(tokenizer: Chats) -> bool:
    """Whether the template has a place for a system prompt; those of Gemma 2 refuse one."""
    try:
        tokenizer.chat([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])
    except ModelError:
        return False
    return True


def _merged(messages: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The system prompt at the head of what the user says first."""
    first, second, *others = messages
    if first["role"] != "system":
        return list(messages)
    return [{"role": second["role"], "content": f"{first['content']}\n\n{second['content']}"}, *others]
