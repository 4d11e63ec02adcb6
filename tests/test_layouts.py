"""What a model is shown of a row."""

import pytest

from agent_tunix import layouts, overrides, sampling, workshop
from agent_tunix.errors import ConfigError, ModelError

ROW = {"prompt": "2 + 2?", "demonstration": "4", "answer": "4"}
EXAMPLE = {"prompt": "1 + 1?", "demonstration": "2"}


class Chatty:
    """Writes a chat as role:content, and may refuse a system prompt."""

    has_chat_template = True

    def __init__(self, refuses=()):
        self.refuses = refuses

    def chat(self, messages):
        for message in messages:
            if message["role"] in self.refuses:
                raise ModelError(f"no {message['role']}")
        return "|".join(f"{message['role']}:{message['content']}" for message in messages) + "|assistant:"


class Silent:
    has_chat_template = False


def test_a_prompt_alone_is_the_prompt():
    assert layouts.layout(Silent())(ROW) == "2 + 2?"
    assert layouts.layout(object()) is layouts.plain


def test_without_a_template_everything_is_text():
    write = layouts.layout(Silent(), system_prompt="Answer.", examples=[EXAMPLE])
    assert write(ROW) == "Answer.\n\n1 + 1?\n2\n\n2 + 2?\n"
    assert layouts.layout(Chatty(), examples=[EXAMPLE], chat=False)(ROW) == "1 + 1?\n2\n\n2 + 2?\n"


def test_with_a_template_there_are_turns():
    write = layouts.layout(Chatty(), system_prompt="Answer.", examples=[EXAMPLE])
    assert write(ROW) == "system:Answer.|user:1 + 1?|assistant:2|user:2 + 2?|assistant:"
    assert layouts.layout(Chatty())(ROW) == "user:2 + 2?|assistant:"


def test_a_template_without_a_place_for_it_has_the_system_prompt_in_the_first_turn():
    refusing = Chatty(refuses=("system",))
    assert layouts.layout(refusing, system_prompt="Answer.")(ROW) == "user:Answer.\n\n2 + 2?|assistant:"
    shown = layouts.layout(refusing, system_prompt="Answer.", examples=[EXAMPLE])(ROW)
    assert shown == "user:Answer.\n\n1 + 1?|assistant:2|user:2 + 2?|assistant:"


def test_a_row_may_bring_its_chat_and_its_system_prompt():
    own = {"prompt": "?", "messages": [{"role": "system", "content": "Own."}, {"role": "user", "content": "Hi"}]}
    assert layouts.layout(Chatty(), system_prompt="Answer.")(own) == "system:Own.|user:Hi|assistant:"
    own["messages"] = own["messages"][1:]
    assert layouts.layout(Chatty(), system_prompt="Answer.")(own) == "system:Answer.|user:Hi|assistant:"


def test_an_example_needs_a_demonstration():
    with pytest.raises(ConfigError, match=r"data\.few_shot=0"):
        layouts.layout(Silent(), examples=[{"prompt": "1 + 1?"}])


def test_a_run_shows_examples_that_it_does_not_train_on():
    words = ["data.train_size=20", "data.heldout_size=4", "data.max_prompt_tokens=200", "data.few_shot=2"]
    shop = workshop.workshop(overrides.load([*words, "data.system_prompt=Sort."]))
    plain = workshop.workshop(overrides.load(words[:3]))
    shown = plain.dataset.train[:2]
    assert shop.dataset.train == plain.dataset.train[2:]
    text = shop.layout(shop.dataset.train[0])
    assert text.startswith("Sort.\n\n" + shown[0]["prompt"])
    assert text.endswith(shop.dataset.train[0]["prompt"] + "\n")
    assert plain.layout is layouts.plain


def test_what_is_shown_is_what_is_encoded(policy, params, tokenizer):
    from agent_tunix import models

    row = {"prompt": "21", "answer": "12"}
    sample = sampling.sampler(
        policy, tokenizer, max_prompt_tokens=12, max_completion_tokens=2, layout=lambda row: f"sort {row['prompt']}"
    )
    import jax

    rollouts = sample(models.full(params), [row], 2, jax.random.key(0))
    assert rollouts.prompts == ["21"]
    assert tokenizer.decode(rollouts.prompt_ids[0][rollouts.prompt_mask[0]]) == "sort 21"
