"""Where findings can be sent: sinks, which take a finding and the name of its run.

A sink is any `(finding, run) -> None`. `webhook` posts to a chat or an own service; how to write others, for a tracker
or a pager, is on the page about watching runs.
"""

import http.client
import logging
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

from agent_tunix.diagnostics.findings import LEVELS, Finding, severity
from agent_tunix.errors import ConfigError, unknown
from agent_tunix.plain import json_line

log = logging.getLogger(__name__)

Sink = Callable[[Finding, str], None]
"""Takes a finding and the name of its run."""

WAITING = 100
"""Posts that may wait; a service that is down for longer loses the rest."""
ATTEMPTS = 3
TEXT_LENGTH = 1900
"""Discord refuses texts of more than 2000 characters (https://discord.com/developers/docs/resources/webhook)."""
# Answers after which the same post may succeed: the server's own trouble, a time limit, a rate limit.
PASSING = frozenset({408, 425, 429, *range(500, 600)})


def at_least(level: str, sink: Sink) -> Sink:
    """A sink that passes on what is as serious as `level`, and drops the rest.

    Examples:
      >>> seen = []
      >>> sink = at_least("error", lambda finding, run: seen.append(finding.rule))
      >>> sink(Finding("stagnation", "warn", (0, 9), ""), "r")
      >>> sink(Finding("non_finite", "error", (3, 3), ""), "r")
      >>> seen
      ['non_finite']

    Raises:
      ConfigError: If there is no such level.
    """
    if level not in LEVELS:
        raise ConfigError(unknown("level of findings", level, LEVELS))

    def passed(finding: Finding, run: str) -> None:
        if severity(finding) >= LEVELS.index(level):
            sink(finding, run)

    return passed


def payload(finding: Finding, run: str) -> dict[str, Any]:
    """What is posted for a finding, plain values only.

    `text` is what Slack and Mattermost show, `content` what Discord shows; both are the finding in words. The other
    keys are for services of your own.
    """
    remedy = f"\n{finding.remedy}" if finding.remedy else ""
    words = f"{run}: {finding.line()}{remedy}"
    words = words if len(words) <= TEXT_LENGTH else words[: TEXT_LENGTH - 1] + "…"
    known = finding.to_json()
    names = ("rule", "level", "steps", "message", "evidence", "remedy")
    return {"run": run, **{name: known[name] for name in names}, "text": words, "content": words}


class Webhook:
    """Posts findings as JSON from a thread of its own; see `webhook`."""

    def __init__(self, url: str, *, timeout_s: float, pause_s: float) -> None:
        self._url, self._timeout_s, self._pause_s = url, timeout_s, pause_s
        # A webhook's path is its password, so that messages name the host only.
        self._host = urllib.parse.urlsplit(url).hostname
        self._open = urllib.request.build_opener(_NoRedirect).open
        self._waiting: queue.Queue[bytes] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        self._warned = False

    def __call__(self, finding: Finding, run: str) -> None:
        """Takes a finding and returns at once."""
        try:
            self._waiting.put_nowait(json_line(payload(finding, run)))
        except queue.Full:
            self._warn(f"{WAITING} posts are waiting already")
            return
        except (TypeError, ValueError) as error:
            self._warn(str(error))
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="webhook", daemon=True)
            self._thread.start()

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Waits until every finding was posted or given up.

        Returns:
          False if some were still waiting after `timeout_s` seconds.
        """
        with self._waiting.all_tasks_done:
            return self._waiting.all_tasks_done.wait_for(lambda: not self._waiting.unfinished_tasks, timeout_s)

    def _work(self) -> None:
        while True:
            body = self._waiting.get()
            try:
                self._deliver(body)
            finally:
                self._waiting.task_done()

    def _deliver(self, body: bytes) -> None:
        for attempt in range(ATTEMPTS):
            try:
                self._post(body)
                return
            # ValueError and HTTPException: an answer that is not HTTP. OSError: everything of the network.
            except (OSError, http.client.HTTPException, ValueError) as error:
                failure = error
            if isinstance(failure, urllib.error.HTTPError) and failure.code not in PASSING:
                break
            if attempt + 1 < ATTEMPTS:
                time.sleep(self._pause_s * 4**attempt)
        self._warn(f"{type(failure).__name__}: {failure}")

    def _post(self, body: bytes) -> None:
        headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "agent-tunix"}
        request = urllib.request.Request(self._url, data=body, headers=headers, method="POST")
        try:
            with self._open(request, timeout=self._timeout_s):
                pass  # the status has been checked, and what the service says is for nobody
        except urllib.error.HTTPError as error:
            error.close()
            raise

    def _warn(self, why: str) -> None:
        """Says once that posts get lost; a run of days is not to repeat it at every finding."""
        if not self._warned:
            self._warned = True
            log.warning("a finding could not be posted to %s (%s); further failures are not reported", self._host, why)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected post would arrive as a GET without its body, and count as delivered."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def webhook(url: str, *, timeout_s: float = 5.0, pause_s: float = 1.0) -> Webhook:
    """A sink that posts every finding as JSON, in the background.

    It never blocks a run and never fails it: a post that does not get through is tried again after `pause_s` and after
    four times that, then dropped; the first one lost is logged as a warning. The keys of a post are those of `payload`.

    Args:
      url: Of the service; `http` or `https`. It is often a secret, so that messages show its host only.
      timeout_s: Limit of each wait for the service.
      pause_s: Seconds before the second attempt.

    Returns:
      A sink. The end of a process drops what is still waiting, so call its `flush(timeout_s)` before.

    Raises:
      ConfigError: If `url` is not an http or https address.

    Examples:
      >>> alert = webhook("http://localhost:8065/hooks/abc")
      >>> alert.flush()
      True
    """
    problem = _address_problem(url)
    if problem:
        raise ConfigError(f"a webhook needs an address like https://host/path, {problem}")
    return Webhook(url, timeout_s=timeout_s, pause_s=pause_s)


def _address_problem(url: str) -> str:
    """Why an address cannot be posted to, without showing what may be a secret; empty if it can."""
    try:
        parts = urllib.parse.urlsplit(url)
        port_is_number = parts.port is None or parts.port > 0
    except ValueError as error:
        return f"got one that cannot be read: {error}"
    if parts.scheme not in ("http", "https"):
        return f"got one of kind `{parts.scheme}`" if parts.scheme else "got one without http:// or https://"
    if not parts.hostname or not port_is_number:
        return "got one without a host"
    # http.client refuses these only when it sends.
    if not url.isascii() or any(sign <= " " for sign in url):
        return "got one with spaces or signs that are not ASCII"
    return ""
