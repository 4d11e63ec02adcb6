"""The commands that say how a run, or anybody's log, is doing."""

import json
from pathlib import Path

import pytest

from agent_tunix import cli

LOGS = Path(__file__).parent / "fixtures" / "logs"


def run(*words, capsys):
    """Exit code, standard output and standard error of a command."""
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def hacked(tmp_path):
    """A log whose reward leaves its bound."""
    path = tmp_path / "hacked.csv"
    rewards = [5, 20, 50, 100, 180, 280, 350, 420, 470, 510, 540]
    rows = "".join(f"{10 * i},{value},{i}\n" for i, value in enumerate(rewards))
    path.write_text("step,reward,my_f1\n" + rows)
    return path


def test_diagnose_says_what_is_wrong_with_a_log(hacked, capsys):
    code, out, err = run("diagnose", hacked, "--bounds", "0,200", capsys=capsys)
    assert (code, err) == (0, "")
    assert "ERROR exceeds_bound" in out
    assert "To do:" in out
    assert "my_f1" in out.splitlines()[-1]  # no card knows it, and nothing is guessed


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--strict", "--bounds", "0,200"], 2),
        (["--strict", "--bounds", "0,1000"], 0),
        (["--strict"], 0),  # a warning is no error
        (["--bounds", "0,200"], 0),
    ],
)
def test_the_exit_code_is_2_only_for_an_error_found_under_strict(hacked, capsys, words, code):
    assert run("diagnose", hacked, *words, capsys=capsys)[0] == code


def test_diagnose_prints_strict_json(hacked, capsys):
    _, out, _ = run("diagnose", hacked, "--bounds", "0,200", "--json", capsys=capsys)
    document = json.loads(out, parse_constant=pytest.fail)
    assert document["findings"][0]["rule"] == "exceeds_bound"
    assert document["findings"][0]["steps"][1] == 100
    assert document["unknown"] == ["my_f1"]


def test_a_column_of_the_users_own_gets_a_role(tmp_path, capsys):
    path = tmp_path / "own.csv"
    rows = "".join(f"{i},{0.2 + 0.006 * i},{0.4 - 0.003 * i}\n" for i in range(100))
    path.write_text("step,reward,my_f1\n" + rows)
    words = ("diagnose", path, "--bounds", "0,1", "--eval-samples", 1000)
    assert "proxy_gold_divergence" not in run(*words, capsys=capsys)[1]
    assert "ERROR proxy_gold_divergence" in run(*words, "--role", "my_f1=gold", capsys=capsys)[1]


@pytest.mark.parametrize("log", sorted(path for path in LOGS.iterdir() if path.suffix != ".md"), ids=lambda p: p.name)
def test_logs_of_others_are_read_and_judged(log, capsys):
    code, out, err = run("diagnose", log, capsys=capsys)
    assert (code, err) == (0, "")
    assert "rewards" in out


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["diagnose", "nowhere.csv"], 1, "there is no nowhere.csv"),
        (["diagnose", "x", "--bounds", "1"], 2, "--bounds is 1; give LOW,HIGH"),
        (["diagnose", "x", "--bounds", "1,0"], 2, "give the lower one first"),
        (["diagnose", "x", "--role", "gold"], 2, "--role is gold; give COLUMN=ROLE"),
        (["diagnose", "x", "--eval-samples", "0"], 2, "--eval-samples is 0"),
        (["metrics", "entrpy"], 2, "did you mean `entropy`?"),
        (["explain", "klasim"], 2, "did you mean `klasym`?"),
        (["report", "nowhere"], 1, "nowhere"),
        (["report", "x", "--format", "gif"], 2, "unknown --format `gif`"),
        (["watch", "nowhere"], 1, "nowhere"),
        (["watch", "nowhere", "--refresh", "0"], 2, "--refresh is 0"),
        (["tradeoff", "nowhere"], 1, "nowhere is not a run"),
        (["tradeoff", "x", "--samples", "2"], 2, "--samples is 2; it must be at least 8"),
    ],
)
def test_what_cannot_be_done_is_one_line(words, code, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_text("step,reward\n1,0.5\n2,0.5\n")
    got, out, err = run(*words, capsys=capsys)
    assert (got, out, err.count("\n")) == (code, "", 1)
    assert sentence in err


def test_metrics_lists_all_cards_or_shows_one_by_any_name(capsys):
    listing = run("metrics", capsys=capsys)[1]
    assert listing.count("\n") >= 26
    shown = run("metrics", "actor/ppo_kl", capsys=capsys)[1]
    assert "approx_kl" in shown.splitlines()[0]
    assert "●" in shown


def test_a_report_is_written_where_it_is_wanted(hacked, tmp_path, capsys):
    code, out, _ = run("report", hacked, "--to", tmp_path / "page.html", capsys=capsys)
    assert code == 0
    assert out.strip() == f"report: {tmp_path / 'page.html'}"
    assert "explosive_growth" in (tmp_path / "page.html").read_text(encoding="utf-8")
