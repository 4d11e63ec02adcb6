"""Rewards for other frameworks, and rewards from them.

`from_trl` and `from_verl` take the reward functions of TRL and verl unchanged, `as_tunix` gives Tunix a function of the
kind it wants.
"""

import dataclasses
import inspect
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from agent_tunix.batching import NO_TOKEN, text_rollouts
from agent_tunix.rewards._calls.running import Call, OnFailure, Results, Runner, asynchronous, inline, on_failure_policy
from agent_tunix.rewards._calls.running import run as run_calls
from agent_tunix.rewards._calls.waiting import is_asynchronous
from agent_tunix.rewards._lift import column_of, flattened, from_lists, name_of, repeated
from agent_tunix.rewards._sheet import LARGEST, as_float, checked_bounds, is_number, part_score
from agent_tunix.rewards._universal import content
from agent_tunix.types import Outcome, Reward, Rollouts, Score

_LOG = logging.getLogger(__name__)


def from_trl(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    bounds: tuple[float, float] | None = None,
    chat: bool = False,
    columns: Mapping[str, str] | None = None,
    step: Callable[[], int] | None = None,
    **settings: Any,
) -> Reward:
    """Makes a reward of a reward function written for TRL's GRPO trainer, unchanged.

    It is called as `GRPOTrainer._calculate_rewards` of TRL 1.x does: by keyword, with flat lists in which the
    completions of one prompt follow each other. It gets `prompts`, `completions`, `completion_ids` (lists of token
    ids, where the rollouts have tokens), every column of the data repeated for each completion, `trainer_state` (an
    object with `global_step`), `log_extra(column, values)` and `log_metric(name, value)`; without `**kwargs`, only what
    it names. None abstains. Where we differ: TRL turns None into NaN and takes a returned NaN for the same; here NaN is
    refused as from every reward, since nobody can tell it from a division by zero.

    Args:
      function: A function, coroutine function, partial or object with `__call__`.
      name: Name of the part in metrics; by default that of the function.
      bounds: Least and greatest value, infinite by default. Given, they are enforced.
      chat: Whether the function is meant for chat data. Prompts are then lists of one message of the user, and
        completions lists of one message of the assistant, each with `role` and `content`.
      columns: For parameters named otherwise than in the data, the column: `{"solution": "answer"}`.
      step: What `trainer_state.global_step` reads; by default the number of batches this reward has scored before,
        counted from 0 in every process.
      **settings: Further keyword arguments for the function.

    Returns:
      A reward. Columns of numbers given to `log_extra` become parts `<name>/<column>`, without weight in the value;
      the first batch that logs any settles which. Scalars given to `log_metric` go to the log of this module. An
      exception marks the whole batch as failed.

    Raises:
      ValueError: When called: a column or token ids that the function names are missing, or as in `from_lists`.
      TypeError: When called: as in `from_lists`.

    Examples:
      >>> def brevity(completions, **kwargs):
      ...     return [-0.25 * len(completion[0]["content"]) for completion in completions]
      >>> as_tunix(from_trl(brevity, chat=True))(["?", "?"], ["four", "2"])
      [-1.0, -0.25]
    """
    label = name or name_of(function)
    parameters = inspect.signature(function).parameters
    fixed_keys, batches = _first_keys(label), itertools.count()

    def score(rollouts: Rollouts) -> Score:
        extras: dict[str, list[Any]] = {}
        batch = next(batches) if step is None else step()
        given = _trl_texts(rollouts, chat) | _trl_columns(rollouts, columns or {}, label)
        given |= {"trainer_state": SimpleNamespace(global_step=batch), "log_metric": _log_metric(label)}
        given |= {"log_extra": lambda column, values: extras.setdefault(column, []).extend(values)}
        arguments = _accepted(parameters, given | settings, label)

        def ask(completions: Sequence[str]) -> Any:
            return function(**arguments)

        async def ask_async(completions: Sequence[str]) -> Any:
            return await function(**arguments)

        lifted: Callable[..., Any] = ask_async if is_asynchronous(function) else ask
        scored = from_lists(lifted, name=label, bounds=bounds)(rollouts)
        return _with_extras(scored, label, _whole_columns(extras, math.prod(rollouts.shape), label), fixed_keys)

    return Reward(label, score, checked_bounds(label, bounds))


def from_verl(
    compute_score: Callable[..., Any],
    *,
    data_source: str = "unknown",
    answer: str = "answer",
    name: str | None = None,
    bounds: tuple[float, float] | None = None,
    run: Runner | None = None,
    on_failure: str | OnFailure = "abstain",
) -> Reward:
    """Makes a reward of a `compute_score` written for verl, unchanged.

    It is called by keyword for every completion, as verl's naive reward manager does, with those of `data_source`,
    `solution_str` (the completion), `ground_truth` and `extra_info` that it names.

    Args:
      compute_score: `(data_source, solution_str, ground_truth, extra_info=None) -> float | dict`, or a coroutine
        function of that kind. Of a dictionary, `score` is the value and every other number, also a truth value, is a
        part `<name>/<key>` without weight in the value. Of a tuple the first entry counts, as in verl's own
        dispatcher. None abstains.
      data_source: Passed on where the data has no column `data_source`.
      answer: Column with the reference answer, where the data has neither a column `ground_truth` nor dictionaries
        with that key in a column `reward_model`, which is how verl stores it.
      name: Name of the part in metrics; by default that of the function.
      bounds: Least and greatest value, infinite by default. Given, they are enforced.
      run: Where the calls run, as in `per_completion`.
      on_failure: What a failing call leads to, as in `per_completion`.

    Returns:
      A reward. `extra_info` is a copy of the column of that name, else of the whole row. The first batch in which any
      dictionary has further numbers settles the names of the parts; where one is missing later, it is NaN.

    Raises:
      ValueError: When called: there is no reference answer, a dictionary lacks `score`, or a value is NaN, infinite or
        out of bounds.
      TypeError: When called: a value is not a number.

    Examples:
      >>> def compute_score(data_source, solution_str, ground_truth, extra_info=None):
      ...     return {"score": float(solution_str == ground_truth), "length": len(solution_str)}
      >>> as_tunix(from_verl(compute_score))(["?", "?"], ["4", "5"], answer=["4", "4"])
      [1.0, 0.0]
    """
    label = name or name_of(compute_score)
    limits, policy = checked_bounds(label, bounds), on_failure_policy(on_failure)
    parameters = inspect.signature(compute_score).parameters
    runner = run or (asynchronous() if is_asynchronous(compute_score) else inline)
    fixed_keys = _first_keys(label)

    def score(rollouts: Rollouts) -> Score:
        calls: list[Call] = [
            ((), _accepted(parameters, arguments, label))
            for arguments in _verl_rows(rollouts, data_source, answer, label)
        ]
        results = run_calls(runner, compute_score, calls, policy)
        values = [_verl_value(value, label) for value in results.values]
        scored = part_score(label, limits, rollouts.shape, Results(values, results.problems, results.seconds))
        details = [value if isinstance(value, Mapping) else {} for value in results.values]
        names = dict.fromkeys(str(key) for detail in details for key in detail if key != "score")
        extras = {key: [detail.get(key) for detail in details] for key in names}
        return _with_extras(scored, label, extras, fixed_keys)

    return Reward(label, score, limits)


def as_tunix(reward: Reward, *, group_size: int = 1, missing: float | None = None) -> Callable[..., list[float]]:
    """Makes a reward function for Tunix, or for any trainer that takes `(prompts, completions, **columns) -> list`.

    Only texts and columns reach the reward; a reward that reads tokens finds none. Of prompts and completions given as
    lists of chat messages, the text is the content of the last message.

    Args:
      reward: The reward.
      group_size: Consecutive completions that belong to one prompt. 1 shows the reward single completions, which is
        right for every reward that does not compare the members of a group.
      missing: Value of entries without one. By default they raise, since neither NaN nor a silent zero is a reward.

    Returns:
      A function with the reward's name as `__name__` and no named parameters besides the two: Tunix fills in
      algorithm settings where a parameter bears the name of one.

    Raises:
      ValueError: When called: the completions do not divide into groups, or an entry has no value and `missing` is
        not given.
    """

    def reward_function(prompts: Sequence[str], completions: Sequence[str], **kwargs: Any) -> list[float]:
        score = reward(_text_rollouts(prompts, completions, kwargs, group_size))
        value, valid = np.ravel(score.value), np.ravel(score.valid)
        if missing is None and not valid.all():
            reasons = "; ".join(failure.reason for failure in score.failures[:1]) or "it abstained"
            raise ValueError(
                f"reward `{reward.name}` has no value for {np.sum(~valid)} of {valid.size} completions, the first is "
                f"completion {int(np.argmin(valid))} ({reasons}); give as_tunix a value for missing="
            )
        return [float(entry) for entry in np.where(valid, value, missing or 0.0)]

    reward_function.__name__ = reward_function.__qualname__ = reward.name
    return reward_function


def _text_rollouts(
    prompts: Sequence[str], completions: Sequence[str], columns: Mapping[str, Any], group_size: int
) -> Rollouts:
    """Rollouts of texts alone, from flat lists."""
    total = len(completions)
    if len(prompts) != total or total % group_size:
        raise ValueError(
            f"got {len(prompts)} prompts and {total} completions for group_size={group_size}; "
            "give one prompt per completion and whole groups"
        )
    return text_rollouts(
        _texts(prompts[::group_size]),
        [_texts(completions[start : start + group_size]) for start in range(0, total, group_size)],
        {name: values[::group_size] for name, values in columns.items() if _is_column(values, total)},
    )


def _is_column(values: Any, total: int) -> bool:
    """Whether a keyword argument is a column; trainers pass settings the same way."""
    if isinstance(values, np.ndarray):
        return values.ndim > 0 and len(values) == total
    return isinstance(values, Sequence) and not isinstance(values, str | bytes) and len(values) == total


def _texts(messages: Iterable[Any]) -> list[str]:
    return [content(message) for message in messages]


# --- What others pass -------------------------------------------------------------------------------------------------


def _accepted(parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The arguments that a function takes by keyword; missing ones are named before it is called."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    for key, parameter in parameters.items():
        if parameter.kind in by_name and parameter.default is parameter.empty and key not in given:
            raise ValueError(
                f"reward `{name}` needs `{key}`, which is neither a column of the data nor something its trainer "
                f"passes; there are: {', '.join(sorted(given))}"
            )
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(given)
    return {key: value for key, value in given.items() if key in parameters}


def _trl_texts(rollouts: Rollouts, chat: bool) -> dict[str, Any]:
    """Prompts, completions and token ids, one entry per completion."""
    prompts, completions = repeated(rollouts.prompts, rollouts.shape[1]), flattened(rollouts.completions)
    if not chat:
        texts: dict[str, Any] = {"prompts": prompts, "completions": completions}
    else:
        texts = {
            "prompts": [[{"role": "user", "content": prompt}] for prompt in prompts],
            "completions": [[{"role": "assistant", "content": completion}] for completion in completions],
        }
    ids, mask = np.asarray(rollouts.completion_ids), np.asarray(rollouts.completion_mask)
    if ids.shape[-1] == 0 or (ids == NO_TOKEN).any():  # texts alone, as from another trainer or a stored run
        return texts
    return texts | {"completion_ids": [ids[where][mask[where]].tolist() for where in np.ndindex(*rollouts.shape)]}


def _trl_columns(rollouts: Rollouts, renamed: Mapping[str, str], name: str) -> dict[str, list[Any]]:
    """Columns of the data, also under the names a function has for them, one entry per completion."""
    found = {key: values for key, values in rollouts.columns.items() if key not in _TRL_OWN}
    found |= {parameter: column_of(rollouts, column, name) for parameter, column in renamed.items()}
    return {key: repeated(values, rollouts.shape[1]) for key, values in found.items()}


_TRL_OWN = ("prompt", "completion", "prompts", "completions", "completion_ids")
"""What the trainer fills in itself, whatever the data has of that name."""


def _log_metric(name: str) -> Callable[[str, float], None]:
    return lambda metric, value: _LOG.info("%s/%s: %g", name, metric, value)


def _verl_rows(rollouts: Rollouts, data_source: str, answer: str, name: str) -> Iterable[dict[str, Any]]:
    """Everything verl passes, for every completion."""
    columns = rollouts.columns
    truths = _verl_truths(rollouts, answer, name)
    sources = columns.get("data_source", [data_source] * len(truths))
    for prompt, group in enumerate(rollouts.completions):
        row = {column: values[prompt] for column, values in columns.items()}
        info = row.get("extra_info", row)
        for completion in group:
            yield {
                "data_source": sources[prompt],
                "solution_str": completion,
                "ground_truth": truths[prompt],
                "extra_info": dict(info) if isinstance(info, Mapping) else info,  # functions write into it
            }


def _verl_truths(rollouts: Rollouts, answer: str, name: str) -> Sequence[Any]:
    """The reference answer of every prompt, from where verl keeps it or from a column."""
    models = rollouts.columns.get("reward_model")
    if "ground_truth" in rollouts.columns:
        return rollouts.columns["ground_truth"]
    if models is not None and all(isinstance(model, Mapping) and "ground_truth" in model for model in models):
        return [model["ground_truth"] for model in models]
    return column_of(rollouts, answer, name)


def _verl_value(result: Any, name: str) -> Any:
    """The score in what `compute_score` returned."""
    if isinstance(result, Mapping):
        if "score" not in result:
            raise ValueError(f"reward `{name}` returned a dictionary with {', '.join(map(str, result))}; add `score`")
        return result["score"]
    # As `default_compute_score` of verl/utils/reward_score/__init__.py does with what its scorers return.
    return result[0] if isinstance(result, tuple | list) and result else result


# --- Further parts ----------------------------------------------------------------------------------------------------


def _first_keys(name: str) -> Callable[[Iterable[str]], tuple[str, ...]]:
    """A memory for names of parts, which are to be the same in every batch: those of the first that has any."""
    fixed: list[str] = []
    told: set[str] = set()

    def keys(found: Iterable[str]) -> tuple[str, ...]:
        if not fixed:
            fixed.extend(found)
        for key in set(found) - set(fixed) - told:
            told.add(key)
            _LOG.warning("reward `%s` gave `%s` after its first batch; it is left out", name, key)
        return tuple(fixed)

    return keys


def _whole_columns(extras: Mapping[str, list[Any]], total: int, name: str) -> dict[str, list[Any]]:
    """The columns with one entry per completion; others are named in the log."""
    for key, values in extras.items():
        if len(values) != total:
            _LOG.warning("reward `%s` logged %d values of `%s` for %d completions", name, len(values), key, total)
    return {key: values for key, values in extras.items() if len(values) == total}


def _with_extras(
    score: Score,
    name: str,
    extras: Mapping[str, Sequence[Any]],
    fixed_keys: Callable[[Iterable[str]], tuple[str, ...]],
) -> Score:
    """The score with columns of numbers as further parts; what is no finite number is NaN there."""
    found = {key: _entries(values).reshape(score.value.shape) for key, values in extras.items()}
    keys = fixed_keys([key for key, values in found.items() if not np.isnan(values).all()])
    nothing = np.full(score.value.shape, np.nan, np.float32)
    parts = {f"{name}/{key}": found.get(key, nothing) for key in keys}
    without = np.where(score.outcomes[name] == Outcome.GRADED, np.int8(Outcome.ABSTAINED), score.outcomes[name])
    outcomes = {path: np.where(np.isnan(values), without, np.int8(Outcome.GRADED)) for path, values in parts.items()}
    return dataclasses.replace(score, parts={**score.parts, **parts}, outcomes={**score.outcomes, **outcomes})


def _entries(values: Sequence[Any]) -> np.ndarray:
    return np.array([_finite_or_nan(value) for value in values], np.float32)


def _finite_or_nan(value: Any) -> float:
    number = as_float(value) if is_number(value) else math.nan
    return number if abs(number) <= LARGEST else math.nan
