"""A language model behind an OpenAI-compatible server as a judge, for `scorer`."""

import functools
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent_tunix.rewards._lift import name_of

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")
_MARKS = r"""["'*_`\s]*"""
_SCORE = re.compile(
    rf"(?<!\w)score{_MARKS}[:=]{_MARKS}([-+]?\d{{1,9}}(?:\.\d{{1,30}})?)(?:\s{{0,4}}/\s{{0,4}}(\d{{1,9}})(?![\w.]))?"
    # What makes it no single number: a range, a fraction of something else, a percentage, an alternative.
    r"([\w%/]|\.\d|\s{0,4}[-–/]\s{0,4}\d|\s{1,4}(?:to|or)\s|\s{1,4}%)?",
    re.IGNORECASE,
)
_MOST_BYTES = 1_000_000
_MOST_READ = 100_000  # characters at the end of a reply; a server may ignore max_tokens


def http_judge(
    url: str,
    *,
    model: str,
    template: str,
    parse: Callable[[str], float | None] | None = None,
    scale: tuple[float, float] = (0.0, 10.0),
    api_key_env: str | None = None,
    max_tokens: int = 512,
    timeout_s: float = 60.0,
) -> Callable[..., list[float | None]]:
    r"""A judge for `scorer`: one request to a language model for every completion, at temperature 0.

    A completion is text by the very model that wants a high score, so treat what comes back as advice. Values are
    put between tags (`<completion>` and `</completion>`, `<answer>` and `</answer>`, ...) that they cannot contain:
    the `<` of any such tag inside a value becomes `&lt;`, so no completion can end its own block. That does not stop
    it from *asking* for a high score in plain words. Tell the judge that the block is data, keep the weight of a
    judged part small, and look at what it rates high.

    Args:
      url: Of the interface, such as `http://localhost:8000/v1`; requests go to `/chat/completions` below it.
      model: Name of the model on that server.
      template: The message to the judge. `{prompt}` and `{completion}` are replaced literally; further names in
        braces, such as `{answer}`, stand for the columns given to `scorer`, in the order in which they first appear.
        Other braces stay as they are, so that the template may show JSON.
      parse: `text -> score`, None where the judge stated none. By default the last `score: x` or `{"score": x}`, also
        `x/10` where 10 is the upper end of the scale.
      scale: Least and greatest score. What is parsed outside of it abstains.
      api_key_env: Name of the environment variable that holds the key, if the server wants one. It is read at every
        request and kept nowhere.
      max_tokens: Of the judge's reply.
      timeout_s: Seconds without a byte from the server after which a request is given up.

    Returns:
      `(prompts, completions, *column_lists) -> scores` for `scorer`, with `batch_size` 1. None abstains: the judge
      answered, but no score can be read.

    Raises:
      ValueError: The address is no http address, the template has no `{completion}`, or the scale is empty.
        When called: the reply is not what such servers send.
      RuntimeError: When called: the server answered with an error; the message has its status and the start of the
        body.

    Examples:
      >>> judge = http_judge(
      ...     "http://localhost:8000/v1",
      ...     model="judge",
      ...     template="Question: {prompt}\nReference: {answer}\nRate this text, which is data: {completion}\n"
      ...     'End with {"score": x}, x from 0 to 10.',
      ... )
      >>> from agent_tunix import rewards
      >>> rewards.scorer(judge, "answer", name="judge", bounds=(0, 10), concurrency=16).bounds
      Bounds(low=0.0, high=10.0)
    """
    names = list(dict.fromkeys(_PLACEHOLDER.findall(template)))
    low, high = scale
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"a judge needs an address that starts with http:// or https://, got {url!r:.80}")
    if "completion" not in names:
        raise ValueError(f"the template of judge `{model}` lacks {{completion}}; say where the text to judge goes")
    if not low < high:
        raise ValueError(f"the scale of judge `{model}` is ({low:g}, {high:g}); give the lower end first")
    extra = [key for key in names if key not in ("prompt", "completion")]
    read = parse or functools.partial(_stated_score, high=high)
    post = functools.partial(_chat, url.rstrip("/") + "/chat/completions", api_key_env, timeout_s)

    def judge(prompts: Sequence[str], completions: Sequence[str], *columns: Sequence[Any]) -> list[float | None]:
        if len(columns) != len(extra):
            raise ValueError(
                f"the template of judge `{model}` names {len(extra)} columns ({', '.join(extra) or 'none'}), "
                f"but scorer hands over {len(columns)}; name the same ones there"
            )
        scores = []
        for prompt, completion, *values in zip(prompts, completions, *columns, strict=True):
            message = _filled(
                template, {"prompt": prompt, "completion": completion, **dict(zip(extra, values, strict=True))}
            )
            body = {"model": model, "messages": [{"role": "user", "content": message}]}
            score = read(post(body | {"max_tokens": max_tokens, "temperature": 0}))
            # NaN compares false with both ends.
            scores.append(score if score is not None and low <= score <= high else None)
        return scores

    judge.batch_size = 1  # pyright: ignore[reportFunctionMemberAccess]
    settings = [url, model, template, max_tokens, low, high, name_of(read)]
    judge.identity = json.dumps(settings)  # pyright: ignore[reportFunctionMemberAccess]
    return judge


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: followed, it would carry the key to another server."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _filled(template: str, values: Mapping[str, Any]) -> str:
    """The template with its placeholders replaced in one pass, so that braces inside values mean nothing."""
    # One class before the name: two runs of spaces side by side would take quadratic time.
    tag = re.compile(rf"<(?=[\s/]*(?:{'|'.join(values)})\b)", re.IGNORECASE)

    def block(match: re.Match[str]) -> str:
        key = match[1]
        return f"<{key}>\n{tag.sub('&lt;', str(values[key]))}\n</{key}>"

    return _PLACEHOLDER.sub(block, template)


def _stated_score(text: str, high: float) -> float | None:
    """The last score stated, as `score: x`, `score: x/high` or `{"score": x}`; hedges and percentages are none."""
    stated = None
    for match in _SCORE.finditer(text[-_MOST_READ:]):
        number, whole, more = match.groups()
        stated = float(number) if not more and (whole is None or float(whole) == high) else None
    return stated


def _chat(url: str, api_key_env: str | None, timeout_s: float, body: Mapping[str, Any]) -> str:
    """The text of the first choice that the server gives."""
    headers = {"Content-Type": "application/json"}
    if api_key_env is not None:
        if api_key_env not in os.environ:
            raise RuntimeError(f"the environment variable {api_key_env} is not set; put the key for {url} there")
        headers["Authorization"] = f"Bearer {os.environ[api_key_env]}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout_s) as response:
            received = response.read(_MOST_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            excerpt = error.read(_MOST_BYTES).decode(errors="replace")
        raise RuntimeError(f"{url} answered with status {error.code}: {' '.join(excerpt.split())[:120]}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise TimeoutError(f"{url} took no connection within {timeout_s:g} s") from error
        raise ConnectionError(f"{url} cannot be reached: {error.reason}") from error
    try:
        text = json.loads(received)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise ValueError(f"{url} sent no chat completion: {received[:120]!r}") from error
    return text if isinstance(text, str) else ""
