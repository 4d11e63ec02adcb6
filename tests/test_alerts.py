import json
import logging
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix.diagnostics import alerts
from agent_tunix.diagnostics.findings import Finding
from agent_tunix.errors import ConfigError

FINDING = Finding(
    "exceeds_bound",
    "error",
    (40, 60),
    "reward 281 is above its bound 200",
    {"reward": 281.0, "gap": float("inf")},
    "Check the grader.",
)


class Service:
    """A real HTTP server that notes what it was sent and answers as it is told."""

    def __init__(self, *answers):
        self.posts, self.arrived, self.answers = [], threading.Semaphore(0), list(answers)
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                service.posts.append((self.path, dict(self.headers), json.loads(body)))
                service.arrived.release()
                answer = service.answers.pop(0) if service.answers else 204
                answer(self) if callable(answer) else self.say(answer)

            def do_GET(self):
                service.posts.append(("GET", {}, {}))
                self.say(200)

            def say(self, code):
                self.send_response(code)
                if code in (301, 302, 307):
                    self.send_header("Location", f"{service.url}elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


def hang_up(handler):
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def talk_nonsense(handler):
    handler.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")
    handler.close_connection = True


@pytest.fixture
def serve():
    services = []

    def start(*answers):
        services.append(Service(*answers))
        return services[-1]

    yield start
    for service in services:
        service.server.shutdown()
        service.server.server_close()


def posted(service):
    return [body for _, _, body in service.posts]


def test_a_finding_arrives_with_every_key_and_as_valid_json(serve):
    service = serve()
    alert = alerts.webhook(service.url + "hooks/abc?x=1")
    alert(FINDING, "sorting-s0")
    assert alert.flush(5)
    path, headers, body = service.posts[0]
    assert path == "/hooks/abc?x=1" and headers["Content-Type"].startswith("application/json")
    words = "sorting-s0: ERROR exceeds_bound, steps 40 to 60: reward 281 is above its bound 200\nCheck the grader."
    assert body == {
        "run": "sorting-s0",
        "rule": "exceeds_bound",
        "level": "error",
        "steps": [40, 60],
        "message": "reward 281 is above its bound 200",
        "evidence": {"reward": 281.0, "gap": None},
        "remedy": "Check the grader.",
        "text": words,
        "content": words,
    }


def test_findings_arrive_in_their_order(serve):
    service = serve()
    alert = alerts.webhook(service.url)
    for step in range(20):
        alert(Finding("kl_blowup", "warn", (0, step), "kl"), "r")
    assert alert.flush(5)
    assert [body["steps"][1] for body in posted(service)] == list(range(20))


@pytest.mark.parametrize("trouble", [500, 503, 429, hang_up, talk_nonsense])
def test_passing_trouble_is_tried_again_and_not_reported(serve, caplog, trouble):
    service = serve(trouble, trouble)
    alert = alerts.webhook(service.url, pause_s=0.01)
    alert(FINDING, "r")
    assert alert.flush(5)
    assert len(service.posts) == 3 and caplog.records == []


@pytest.mark.parametrize(("answer", "attempts"), [(500, 3), (hang_up, 3), (404, 1), (302, 1), (307, 1)])
def test_what_cannot_be_delivered_is_given_up_and_reported_once(serve, caplog, answer, attempts):
    service = serve(*[answer] * 6)
    alert = alerts.webhook(service.url + "secret-token", pause_s=0.01)
    with caplog.at_level(logging.WARNING):
        alert(FINDING, "r")
        alert(FINDING, "r")
        assert alert.flush(5)
    assert len(service.posts) == 2 * attempts
    assert len(caplog.records) == 1
    assert "127.0.0.1" in caplog.text and "secret-token" not in caplog.text


def test_delays_between_attempts_grow(serve):
    service = serve(500, 500)
    alert = alerts.webhook(service.url, pause_s=0.05)
    before = time.monotonic()
    alert(FINDING, "r")
    assert alert.flush(5)
    assert time.monotonic() - before >= 0.05 + 0.2


def test_a_refused_connection_harms_nobody(caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        alert = alerts.webhook(f"http://127.0.0.1:{taken.getsockname()[1]}/", pause_s=0.01)
        alert(FINDING, "r")
        assert alert.flush(5)
    assert "ConnectionRefusedError" in caplog.text or "refused" in caplog.text


def test_a_slow_service_never_holds_the_caller_up(serve, caplog):
    gate = threading.Event()
    service = serve(*[lambda handler: (gate.wait(30), hang_up(handler))] * 3)
    alert = alerts.webhook(service.url, timeout_s=0.1, pause_s=0.01)
    alert(FINDING, "r")  # returns though the service answers only when the gate is opened
    assert not alert.flush(0.02)
    assert alert.flush(5)
    assert not gate.is_set()
    gate.set()
    assert len(service.posts) == 3 and "timed out" in caplog.text


def test_what_waits_is_bounded_and_the_rest_is_dropped(serve, caplog, monkeypatch):
    monkeypatch.setattr(alerts, "WAITING", 2)
    gate = threading.Event()
    service = serve(lambda handler: (gate.wait(5), handler.say(204)))
    alert = alerts.webhook(service.url)
    alert(FINDING, "0")
    assert service.arrived.acquire(timeout=5)  # the first one is under way, so the queue is empty
    for run in ("1", "2", "3", "4"):
        alert(FINDING, run)
    gate.set()
    assert alert.flush(5)
    assert [body["run"] for body in posted(service)] == ["0", "1", "2"]
    assert len(caplog.records) == 1 and "2 posts are waiting" in caplog.text


def test_evidence_that_json_cannot_hold_is_reported_and_not_raised(serve, caplog):
    service = serve()
    alert = alerts.webhook(service.url)
    alert(Finding("kl_blowup", "warn", (0, 1), "kl", {"odd": object()}), "r")  # type: ignore[dict-item]
    assert alert.flush(5)
    assert service.posts == [] and "could not be posted" in caplog.text


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("file:///etc/passwd", "`file`"),
        ("ftp://host/x", "`ftp`"),
        ("hooks.slack.com/x", "without http"),
        ("", "without http"),
        ("https:///x", "without a host"),
        ("http://host:port/", "cannot be read"),
        ("http://host/a b", "spaces"),
        ("http://host/\r\nX: y", "spaces"),
        ("http://höst/", "ASCII"),
    ],
)
def test_an_address_that_cannot_be_posted_to_is_refused_at_once(url, part):
    with pytest.raises(ConfigError, match="https://host/path") as caught:
        alerts.webhook(url)
    assert part in str(caught.value) and "\n" not in str(caught.value)


@given(st.text(st.characters(), max_size=3000), st.text(st.characters(), max_size=50))
def test_every_text_fits_a_post_and_survives_json(message, run):
    body = alerts.payload(Finding("kl_blowup", "warn", (0, 1), message), run)
    assert len(body["text"]) <= 1900 and body["text"] == body["content"]
    assert body["message"] == message
    json.loads(alerts.json_line(body))


def test_lesser_findings_can_be_held_back():
    seen = []
    sink = alerts.at_least("warn", lambda finding, run: seen.append((finding.level, run)))
    for level in ("info", "warn", "error"):
        sink(Finding("stagnation", level, (0, 1), ""), "r")
    assert seen == [("warn", "r"), ("error", "r")]


def test_a_wrong_level_names_the_levels():
    with pytest.raises(ConfigError, match="did you mean `warn`"):
        alerts.at_least("warning", print)


def test_a_post_holds_no_control_characters_in_its_words():
    sly = Finding("collapse", "error", (1, 2), "rewards/\x1b[2J\nERROR non_finite fell")
    assert alerts.payload(sly, "r")["text"] == (
        r"r: ERROR collapse, steps 1 to 2: rewards/\x1b[2J\nERROR non_finite fell"
    )
