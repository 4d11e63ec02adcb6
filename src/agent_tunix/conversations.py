"""Rollouts of several turns: the policy speaks, an environment answers, and both are one completion.

A completion then holds what the policy said and what it was told, in that order; `completion_mask` is True on the
policy's own tokens alone. Losses, weights and advantages see no other token, while the log-probabilities of a turn are
those after everything before it, as in a teacher-forced pass over the completion.

The first turn is decoded as `sampling.sampler` decodes; for each further one the conversations that go on are computed
again as prompts of their own, in one of a few lengths and numbers, so that few programs are compiled.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from agent_tunix import buckets, data, devices, hosts, sampling
from agent_tunix.drawing import SOFTMAX, Distribution
from agent_tunix.errors import ModelError
from agent_tunix.layouts import Chats, Layout, plain
from agent_tunix.models import Parameters, Policy
from agent_tunix.sampling import Sample
from agent_tunix.tokenizers import Tokenizer
from agent_tunix.types import Rollouts, Row


class Reply(NamedTuple):
    """What an environment answers to a turn.

    Attributes:
      observation: What the policy is told before its next turn; kept, but not shown to it, after the last one.
      reward: Of the turn.
      done: Whether the episode ends with this turn.
    """

    observation: str = ""
    reward: float = 0.0
    done: bool = False


class Environment(NamedTuple):
    """A world of text, in the manner of a `Shaping`: a state, and a function from a turn to the next one.

    It has to be a function of the row and of what was said alone, or a run that is resumed is not the one that was cut
    off; an environment that draws takes its seed from a column of the row. All members of a group start alike.

    Attributes:
      start: `row -> state`, anything; called for every member of every group.
      step: `(state, said) -> (state, Reply)`, with the text of a turn as the policy said it: tags rendered, stop
        strings included, without the end-of-sequence token. It is also called for a turn that its budget cut off.
    """

    start: Callable[[Row], Any]
    step: Callable[[Any, str], tuple[Any, Reply]]


EncodeObservation = Callable[[str], Sequence[int]]
"""From an observation to the tokens that the policy sees between two of its turns."""


def as_chat(tokenizer: Any) -> EncodeObservation:
    """Observations as messages of the user, by the chat template of the model.

    What the template writes after an answer is taken, up to where the model answers again. The token that ends the
    answer is left out, because the policy has said it.

    Args:
      tokenizer: With a chat template.

    Raises:
      ModelError: If it has none, or the template does not show the answer that comes before an observation.
    """
    if not getattr(tokenizer, "has_chat_template", False):
        raise ModelError("observations as a chat need a tokenizer with a chat template; leave `encode` out")

    def encode(observation: str) -> Sequence[int]:
        ids = tokenizer.encode(_after_answer(tokenizer, observation))
        return ids[1:] if ids and ids[0] in tokenizer.stop_ids() else ids

    encode("")
    return encode


_ANSWER = "@answer@"


def _after_answer(tokenizer: Chats, observation: str) -> str:
    roles = (("user", "@question@"), ("assistant", _ANSWER), ("user", observation))
    text = tokenizer.chat([{"role": role, "content": content} for role, content in roles])
    _, answer, after = text.partition(_ANSWER)
    if not answer:
        raise ModelError("the chat template does not write out earlier answers; give `encode` a function of your own")
    return after


def sampler(
    policy: Policy,
    tokenizer: Tokenizer,
    environment: Environment,
    *,
    max_prompt_tokens: int,
    max_turns: int,
    max_turn_tokens: int,
    max_observation_tokens: int,
    overlong_prompts: str = "raise",
    stop: Sequence[str] = (),
    distribution: Distribution = SOFTMAX,
    streams: int = 1,
    mesh: Mesh | None = None,
    layout: Layout = plain,
    encode: EncodeObservation | None = None,
) -> Sample:
    """The function that turns rows of a task into rollouts of several turns.

    In these, `completions` hold what the policy said, its turns joined by newlines, so that no grader reads the words
    of the environment as the policy's. `completion_ids` hold both, and `truncated` is True where a budget ended the
    episode: a turn without a stop token, or the last turn where the environment was not done. Columns tell the turns
    apart, one entry per prompt, a list over the members of its group with a list over the turns of each:

    - `turn_rewards`: what the environment gave,
    - `turn_ends`: the place in `completion_ids` of the last token of each turn,
    - `observations`: what the environment said.

    With one turn and an environment that is then done, everything else is what `sampling.sampler` gives, bit for bit.

    Args:
      policy: Model functions.
      tokenizer: Between text and tokens.
      environment: Steps in this thread, for one conversation after the other.
      max_prompt_tokens: Width that prompts are padded to.
      max_turns: Turns of the policy at most.
      max_turn_tokens: Token budget of a turn; a turn that spends it without a stop token is the last.
      max_observation_tokens: Tokens of an observation at most. A completion is as wide as the budgets of all turns and
        of the observations between them.
      overlong_prompts: `raise` or `truncate` (from the left) prompts above their budget.
      stop: Single-token strings that end a turn besides the end-of-sequence token.
      distribution: Temperature and filters.
      streams: Parts that are decoded at the same time, as in `sampling.decoding`.
      mesh: Devices that conversations are dealt to; every process steps the environments of its own prompts.
      layout: What is encoded of a row.
      encode: Tokens of an observation; by default those of its text alone. `as_chat` makes it a message of the user.

    Raises:
      ValueError: If a stop string is not a single token, or a budget leaves nothing to say.
      DataError: When called: an observation is longer than its budget.
    """
    if min(max_turns, max_turn_tokens) < 1 or max_observation_tokens < 0:
        raise ValueError(
            f"got {max_turns} turns of {max_turn_tokens} tokens and observations of {max_observation_tokens}; give at "
            "least one turn of one token"
        )
    stop_ids = (*tokenizer.stop_ids(), *(tokenizer.token_id(text) for text in stop))
    decoded = sampling.decoding(
        policy, max_tokens=max_turn_tokens, stop_ids=stop_ids, pad_id=tokenizer.pad_id(),
        distribution=distribution, streams=streams, mesh=mesh,
    )  # fmt: skip
    encode = tokenizer.encode if encode is None else encode
    width = max_turns * max_turn_tokens + (max_turns - 1) * max_observation_tokens

    def turn(parameters: Parameters, key: Key[Array, ""], batch: "_Batch", number: int) -> None:
        """Every conversation that goes on, by one turn and the reply to it."""
        going = batch.going
        noise = jax.random.fold_in(key, number)
        if number == 0:
            drawn = decoded(parameters, batch.encoded.ids, batch.encoded.mask, batch.group_size, noise)
        else:
            ids, mask, places = batch.contexts(max_turn_tokens, tokenizer.pad_id(), devices.count(mesh))
            drawn = decoded(parameters, ids, mask, 1, noise, places)
        batch.transcripts.say(going, drawn)
        stopped = batch.transcripts.stopped(going, stop_ids)
        for member, (said, reply) in batch.answered(environment, tokenizer, going).items():
            talk, end = batch.talks[member], batch.transcripts.ends[member]
            talk.hear(said, reply, end=int(end) - 1, stopped=stopped[member])
            if not talk.over and number + 1 < max_turns:
                batch.transcripts.hear(member, _bounded(encode, reply.observation, max_observation_tokens))

    def sample(parameters: Parameters, rows: Sequence[Row], group_size: int, key: Key[Array, ""]) -> Rollouts:
        encoded = data.encode_prompts(
            tokenizer, [layout(row) for row in rows], max_tokens=max_prompt_tokens, overlong=overlong_prompts
        )
        transcripts = Transcripts.empty(len(rows) * group_size, width, tokenizer.pad_id())
        own = devices.local(mesh, len(rows))
        members = range(own.start * group_size, own.stop * group_size)
        states = {member: environment.start(rows[member // group_size]) for member in members}
        batch = _Batch(encoded, group_size, transcripts, [Talk() for _ in range(transcripts.size)], states)
        for number in range(max_turns):
            if batch.going:
                turn(parameters, key, batch, number)
        return _rollouts(rows, batch)

    return sample


@dataclasses.dataclass
class Talk:
    """What one conversation came to so far, besides its tokens.

    Attributes:
      said: Text of every turn.
      observations: What the environment said to each.
      rewards: Of every turn.
      ends: Place of the last token of every turn.
      over: Whether there is no further turn.
      truncated: Whether a budget, and not the environment, has ended it; True as long as it goes on.
    """

    said: list[str] = dataclasses.field(default_factory=list)
    observations: list[str] = dataclasses.field(default_factory=list)
    rewards: list[float] = dataclasses.field(default_factory=list)
    ends: list[int] = dataclasses.field(default_factory=list)
    over: bool = False
    truncated: bool = True

    def hear(self, said: str, reply: Reply, *, end: int, stopped: bool) -> None:
        """Takes in a turn and the reply to it."""
        self.said.append(said)
        self.observations.append(reply.observation)
        self.rewards.append(float(reply.reward))
        self.ends.append(end)
        self.over, self.truncated = reply.done or not stopped, not (reply.done and stopped)


class Transcripts(NamedTuple):
    """The tokens of all conversations, `[members tokens]`, right-padded; fields as in `Rollouts`.

    Attributes:
      ends: Tokens of each one so far.
      starts: Where the newest turn of each one began.
    """

    completion_ids: Int[np.ndarray, "members tokens"]
    completion_mask: Bool[np.ndarray, "members tokens"]
    logprobs: Float[np.ndarray, "members tokens"]
    old_logprobs: Float[np.ndarray, "members tokens"]
    ends: Int[np.ndarray, " members"]
    starts: Int[np.ndarray, " members"]

    @classmethod
    def empty(cls, members: int, width: int, pad_id: int) -> "Transcripts":
        """Nothing said yet."""
        ids, numbers = np.full((members, width), pad_id, np.int32), np.zeros((members, width), np.float32)
        none = np.zeros(members, int)
        return cls(ids, np.zeros(ids.shape, bool), numbers, numbers.copy(), none, none.copy())

    @property
    def size(self) -> int:
        """Number of conversations."""
        return len(self.ends)

    def say(self, members: Sequence[int], drawn: Mapping[str, np.ndarray]) -> None:
        """Appends turns of the policy, drawn in the order of the members."""
        names = ("completion_ids", "completion_mask", "logprobs", "old_logprobs")
        flat = {name: drawn[name].reshape(-1, drawn[name].shape[-1]) for name in names}
        for place, member in enumerate(members):
            length, start = int(flat["completion_mask"][place].sum()), self.ends[member]
            for name in names:
                getattr(self, name)[member, start : start + length] = flat[name][place, :length]
            self.starts[member], self.ends[member] = start, start + length

    def hear(self, member: int, ids: Sequence[int]) -> None:
        """Appends an observation, which carries no loss."""
        start = self.ends[member]
        self.completion_ids[member, start : start + len(ids)] = ids
        self.ends[member] = start + len(ids)

    def last(self, member: int) -> Int[np.ndarray, " tokens"]:
        """Tokens of the newest turn, before anything is heard."""
        return self.completion_ids[member, self.starts[member] : self.ends[member]]

    def stopped(self, members: Iterable[int], stop_ids: Sequence[int]) -> dict[int, bool]:
        """Whether newest turns ended with a stop token."""
        return {member: int(self.completion_ids[member, self.ends[member] - 1]) in stop_ids for member in members}


class _Batch(NamedTuple):
    """The conversations of a batch, prompt by prompt; `states` are those of the environments of this process."""

    encoded: data.EncodedPrompts
    group_size: int
    transcripts: Transcripts
    talks: Sequence[Talk]
    states: dict[int, Any]

    @property
    def going(self) -> list[int]:
        """Conversations with a further turn."""
        return [member for member, talk in enumerate(self.talks) if not talk.over]

    def answered(
        self, environment: Environment, tokenizer: Tokenizer, going: Sequence[int]
    ) -> dict[int, tuple[str, Reply]]:
        """The newest turns and the replies to them, of all processes."""
        own = {}
        for member in going:
            if member in self.states:
                said = tokenizer.decode(self.transcripts.last(member))
                self.states[member], reply = environment.step(self.states[member], said)
                own[member] = said, reply
        return {member: found for part in hosts.exchanged("replies", own) for member, found in part.items()}

    def contexts(self, turn_tokens: int, pad_id: int, shares: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Conversations that go on as prompts: ids, mask, and which of them each one is, past the last for filling.

        Their number and their width are one of four each, so that few programs are compiled.
        """
        going, (ids, mask) = self.going, self.encoded[:2]
        longest = self.transcripts.completion_ids.shape[1] - turn_tokens
        width = ids.shape[1] + buckets.rung(int(self.transcripts.ends[going].max()), longest)
        count = shares * buckets.rung(-(-len(going) // shares), self.transcripts.size // shares)
        out, there = np.full((count, width), pad_id, np.int32), np.zeros((count, width), bool)
        for place in range(count):
            member = going[min(place, len(going) - 1)]
            prompt, end = member // self.group_size, self.transcripts.ends[member]
            own = [*ids[prompt][mask[prompt]], *self.transcripts.completion_ids[member, :end]]
            out[place, width - len(own) :], there[place, width - len(own) :] = own, True
        places = np.where(np.arange(count) < len(going), np.arange(count), count).astype(np.int32)
        return out, there, places[:, None]


def _bounded(encode: EncodeObservation, observation: str, most: int) -> Sequence[int]:
    ids = encode(observation)
    if len(ids) > most:
        raise data.DataError(
            f"the environment said {len(ids)} tokens ({observation[:40]!r}), but max_observation_tokens is {most}; "
            "raise it, or shorten what the environment says"
        )
    return ids


def _rollouts(rows: Sequence[Row], batch: _Batch) -> Rollouts:
    group_size, transcripts, talks = batch.group_size, batch.transcripts, batch.talks

    def grouped(values: Iterable[Any]) -> list[list[Any]]:
        flat = list(values)
        return [flat[start : start + group_size] for start in range(0, len(flat), group_size)]

    def axes(values: np.ndarray) -> np.ndarray:
        return values.reshape(len(rows), group_size, -1)

    turns = {
        "turn_rewards": grouped(talk.rewards for talk in talks),
        "turn_ends": grouped(talk.ends for talk in talks),
        "observations": grouped(talk.observations for talk in talks),
    }
    return Rollouts(
        prompts=[row["prompt"] for row in rows],
        completions=grouped("\n".join(talk.said) for talk in talks),
        columns={**sampling.columns(rows), **turns},
        prompt_ids=batch.encoded.ids,
        prompt_mask=batch.encoded.mask,
        completion_ids=axes(transcripts.completion_ids),
        completion_mask=axes(transcripts.completion_mask),
        truncated=np.array([talk.truncated for talk in talks]).reshape(len(rows), group_size),
        logprobs=axes(transcripts.logprobs),
        old_logprobs=axes(transcripts.old_logprobs),
    )
