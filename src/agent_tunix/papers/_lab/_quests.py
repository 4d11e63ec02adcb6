"""Text quests without the text: rooms in a row, things in them, and an order in which they have to be taken.

The observation is what a short text would say: which thing is wanted next, and whether it is here, to the left or to
the right. Sizes are arrays, so worlds of several sizes share a program, and a table learned in one can act in another.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from agent_tunix.papers._lab._worlds import World, tabular

THINGS, MOST_STEPS = 4, 6
HERE, LEFTWARD, RIGHTWARD = range(3)
LEFT, RIGHT, LOOK, TAKE = range(4)
ACTIONS, ROWS = TAKE + THINGS, 3 * THINGS
"""Going left and right, looking, which changes nothing, and taking each thing; rows are those of the policy's table."""


class Sizes(NamedTuple):
    """Of a quest: rooms, kinds of things, and things to be taken, at most `MOST_STEPS`."""

    rooms: Int[Array, ""] | int
    things: Int[Array, ""] | int
    steps: Int[Array, ""] | int


class Quest(NamedTuple):
    """The state of an episode.

    Attributes:
      room: Where the agent is.
      taken: Things that have been taken.
      what: Kind of each thing, in the order they are wanted.
      where: Room of each.
      sizes: Of the quest.
    """

    room: Int[Array, "..."]
    taken: Int[Array, "..."]
    what: Int[Array, "... steps"]
    where: Int[Array, "... steps"]
    sizes: Sizes

    @property
    def won(self) -> Bool[Array, "..."]:
        """Whether everything has been taken."""
        return self.taken >= self.sizes.steps


def quests(key: Key[Array, ""], sizes: Sizes, horizon: int) -> World:
    """A world whose prompt i is a quest drawn from the key and i, the same for all members of a group."""

    def start(_: Key[Array, ""], prompt: Array) -> Quest:
        kinds, rooms = jax.random.split(jax.random.fold_in(key, prompt))
        what = jax.random.randint(kinds, (MOST_STEPS,), 0, sizes.things)
        where = jax.random.randint(rooms, (MOST_STEPS,), 0, sizes.rooms)
        return Quest(jnp.int32(0), jnp.int32(0), what, where, Sizes(*map(jnp.asarray, sizes)))

    def step(_: Key[Array, ""], quest: Quest, action: Array) -> tuple[Quest, Array]:
        way = (action == RIGHT).astype(jnp.int32) - (action == LEFT)
        room = jnp.clip(quest.room + way, 0, quest.sizes.rooms - 1)
        after = quest._replace(room=room, taken=quest.taken + progress(quest, action))
        return after, after.won

    return World(start, step, observe, horizon)


def observe(quest: Quest) -> Int[Array, "..."]:
    """The row of the table: the thing that is wanted, and where it is."""
    room = _wanted(quest, quest.where)
    way = jnp.where(room < quest.room, LEFTWARD, jnp.where(room > quest.room, RIGHTWARD, HERE))
    return 3 * _wanted(quest, quest.what) + way


def progress(quest: Quest, action: Int[Array, "..."]) -> Bool[Array, "..."]:
    """Whether an action takes what is wanted, where it is."""
    wanted = _wanted(quest, quest.what)
    return (action == TAKE + wanted) & (quest.room == _wanted(quest, quest.where)) & ~quest.won


def executable(quest: Quest, action: Int[Array, "..."]) -> Bool[Array, "..."]:
    """Whether an action does what it says: no wall is in the way, and what is taken is wanted and here."""
    moves = jnp.where(action == LEFT, quest.room > 0, quest.room < quest.sizes.rooms - 1)
    return jnp.where(action < LOOK, moves, (action == LOOK) | progress(quest, action))


def expert(rows: Int[Array, "..."]) -> Int[Array, "..."]:
    """The best action in a row of the table."""
    way = rows % 3
    return jnp.where(way == HERE, TAKE + rows // 3, jnp.where(way == LEFTWARD, LEFT, RIGHT))


def imitated(
    key: Key[Array, ""], sizes: Sizes, count: Int[Array, ""] | int, *, most: int, errors: float, horizon: int
) -> Float[Array, "rows actions"]:
    """The table of an imitator: actions as often as in demonstrations, each counted once more.

    Args:
      key: Random key of the demonstrations.
      sizes: Of the quests that are shown.
      count: How many of `most` demonstrations are looked at.
      most: Those that are drawn.
      errors: Share of the demonstrator's actions that are drawn evenly instead of being the best.
      horizon: Actions of a demonstration at most.
    """
    best = jax.nn.one_hot(expert(jnp.arange(ROWS)), ACTIONS)
    shows = tabular(quests(key, sizes, horizon), jnp.log((1 - errors) * best + errors / ACTIONS), prompts=most, group=1)
    shown = shows.sample(shows.init(key), key)
    seen = shown.completion_mask & (jnp.arange(most) < count)[:, None, None]
    table = jnp.ones((ROWS, ACTIONS)).at[shown.states, shown.actions].add(seen)
    return jnp.log(table / table.sum(-1, keepdims=True))


def success(
    key: Key[Array, ""], table: Float[Array, "rows actions"], *, sizes: Sizes, horizon: int, prompts: int = 64
) -> Float[Array, ""]:
    """Share of quests that a table of logits solves; the quests are drawn from the key, each tried 16 times."""
    toy = tabular(quests(key, sizes, horizon), table, prompts=prompts)
    return 1.0 - toy.sample(table, key).truncated.mean()


def _wanted(quest: Quest, values: Array) -> Array:
    place = jnp.clip(quest.taken, 0, MOST_STEPS - 1)
    return jnp.take_along_axis(values, place[..., None], -1)[..., 0]
