import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from agent_tunix import cli, jobs, runs
from agent_tunix.config import Config

ROOT = Path(__file__).resolve().parents[1]


STOPPED = 99
"""The seed of runs that a signal stops."""


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Replaces training by opening and closing the run folder; holds the configs it was called with."""
    configs = []
    monkeypatch.chdir(tmp_path)

    def train(config):
        configs.append(config)
        path = Path(config.run_dir or runs.new_run_dir("test"))
        with runs.open_run(path, config={"seed": config.seed}) as run:
            for step, accuracy in ((0, 0.25), (10, 0.5)):
                run.log({"step": step, "kind": "eval", "eval/accuracy": accuracy})
            if config.seed != STOPPED:
                run.write_summary({"step": 10})
        return runs.read_run(path)

    monkeypatch.setattr(jobs, "train", train)
    return configs


def run(*words, capsys):
    """Exit code, standard output and standard error of a command."""
    code = cli.main(words)
    out, err = capsys.readouterr()
    return code, out, err


# --- wrong words


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trian"], "unknown command `trian`; did you mean `train`? Allowed: diagnose, evaluate, explain"),
        (["train", "data=soring"], "did you mean `sorting`? Allowed: arithmetic"),
        (["train", "+experiment=quick"], "did you mean `quick_test`?"),
        (["train", "trainig.steps=3"], "did you mean `training.steps`?"),
        (["train", "training.steps=many"], "takes a whole number"),
        (["train", "training.group_size=1"], "training.group_size is 1"),
        (["train", "sampling.top_p=0"], "sampling.top_p is 0.0; it must be above 0"),
        (["train", "training.minibatches=7"], "does not divide 64 prompts"),
        (["train", "training.reward_function=exact_anser"], "did you mean `exact_answer`?"),
        (["train", "--multirun", "seed=0,1", "optimizer.learning_rate=1e-3,0"], "learning_rate is 0.0"),
        (["train", "--cfg", "all"], "invalid choice: 'all'"),
        (["train", "--frobnicate"], "--frobnicate"),
        (["tasks", "sortin"], "unknown task `sortin`; did you mean `sorting`?"),
        (["tasks", "sorting", "--split", "test"], "unknown --split `test`"),
        (["tasks", "sorting", "--level", "0"], "at least 1"),
        (["tasks", "sorting", "--show", "three"], "invalid int value: 'three'"),
        (["evaluate"], "RUN"),
        (["evaluate", "x", "--split", "hold"], "did you mean `heldout`? Allowed: heldout, test, train."),
        (["evaluate", "x", "--samples", "-1"], "--samples is -1"),
        (["sample", "x", "--prompts", "0"], "--prompts is 0"),
    ],
)
def test_wrong_words_end_in_one_line_and_exit_code_2(words, sentence, trained, capsys):
    code, out, err = run(*words, capsys=capsys)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert sentence in err
    assert trained == []
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("command", ["evaluate", "sample", "resume"])
def test_what_is_no_run_ends_in_one_line_and_exit_code_1(command, tmp_path, capsys):
    code, out, err = run(command, str(tmp_path), capsys=capsys)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "is not a run" in err


def test_debug_shows_the_traceback():
    with pytest.raises(cli.ConfigError):
        cli.main(["train", "--debug", "data=soring"])
    with pytest.raises(cli.ConfigError):
        cli.main(["--debug", "trian"])


# --- train


def test_train_composes_trains_and_says_where_to_look(trained, capsys, tmp_path):
    code, out, _ = run("train", "+experiment=quick_test", "seed=7", f"run_dir={tmp_path / 'r'}", capsys=capsys)
    assert code == 0
    (config,) = trained
    assert (config.seed, config.training.steps, config.run_dir) == (7, 10, str(tmp_path / "r"))
    assert f"run: {tmp_path / 'r'}" in out
    assert "held out, step 0: accuracy 0.250\nheld out, step 10: accuracy 0.500" in out
    assert f"agent_tunix evaluate {tmp_path / 'r'}" in out


def test_a_run_that_was_stopped_is_not_offered_for_evaluation(trained, capsys, tmp_path):
    code, out, _ = run("train", f"seed={STOPPED}", f"run_dir={tmp_path / 'r'}", capsys=capsys)
    assert code == 0
    assert f"run: {tmp_path / 'r'}" in out
    assert "evaluate" not in out


def test_a_multirun_trains_every_combination_in_a_folder_of_its_own(trained, capsys):
    words = ("optimizer.learning_rate=1e-4,3e-4", "--multirun", "seed=1,2")
    assert run("train", *words, capsys=capsys)[0] == 0
    assert [(config.optimizer.learning_rate, config.seed) for config in trained] == [
        (1e-4, 1),
        (1e-4, 2),
        (3e-4, 1),
        (3e-4, 2),
    ]
    assert len([path for path in Path("runs").iterdir() if runs.is_run(path)]) == 4


def test_jobs_of_a_multirun_do_not_share_the_folder_they_were_given(trained, capsys):
    assert run("train", "-m", "seed=1,2", "run_dir=mine", capsys=capsys)[0] == 0
    assert [config.run_dir for config in trained] == ["mine-0", "mine-1"]


def test_cfg_job_prints_the_whole_config_and_trains_nothing(trained, capsys):
    code, out, _ = run("train", "seed=7", "--cfg", "job", "data=gsm8k", capsys=capsys)
    assert code == 0
    printed = yaml.safe_load(out)
    assert printed["seed"] == 7
    assert printed["data"]["task"] == "gsm8k"
    assert set(printed) == set(dataclasses.asdict(Config()))
    assert trained == []
    assert list(Path.cwd().iterdir()) == []


def test_train_help_lists_groups_and_defaults(capsys):
    code, out, _ = run("train", "--help", capsys=capsys)
    assert code == 0
    assert "data=arithmetic | comparison" in out
    assert "learning_rate: 0.001" in out
    assert "--multirun" in out


# --- the other commands


def test_help_lists_every_command(capsys):
    for words in ((), ("--help",)):
        code, out, _ = run(*words, capsys=capsys)
        assert code == 0
        assert all(f"\n  {name} " in out for name in cli.COMMANDS)


def test_tasks_shows_rows(capsys):
    code, out, _ = run("tasks", "arithmetic", "--show", "5", capsys=capsys)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert len(rows) == 5
    assert all(row["task"] == "arithmetic" and row["answer"] for row in rows)
    assert "sorting" in run("tasks", capsys=capsys)[1]


def test_tasks_shows_rows_of_a_file(tmp_path, capsys):
    lines = [json.dumps({"prompt": f"{number}+1", "answer": str(number + 1)}) for number in range(100)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    code, out, _ = run("tasks", "file", "--path", str(tmp_path / "rows.jsonl"), "--show", "2", capsys=capsys)
    assert code == 0
    assert [set(json.loads(line)) >= {"prompt", "answer"} for line in out.splitlines()] == [True, True]


def test_version_names_what_the_package_stands_on(capsys):
    code, out, _ = run("version", capsys=capsys)
    assert code == 0
    assert "agent-tunix 0." in out
    assert "\njax 0." in out


@pytest.fixture
def a_run(tmp_path):
    runs.open_run(tmp_path / "run", config={"seed": 0}).close()
    return str(tmp_path / "run")


def test_evaluate_prints_a_table_or_json(a_run, monkeypatch, capsys):
    result = SimpleNamespace(table=lambda: "a table", to_json=lambda: {"split": "test"})
    asked = []
    monkeypatch.setattr(jobs, "evaluate_run", lambda path, **options: asked.append((path, options)) or result)
    assert run("evaluate", a_run, capsys=capsys)[:2] == (0, "a table\n")
    code, out, _ = run("evaluate", a_run, "--split", "test", "--samples", "4", "--json", capsys=capsys)
    assert (code, json.loads(out)) == (0, {"split": "test"})
    assert asked == [
        (Path(a_run), {"split": "heldout", "samples": 0, "checkpoint": None}),
        (Path(a_run), {"split": "test", "samples": 4, "checkpoint": None}),
    ]


@pytest.mark.parametrize(("word", "step"), [("best", "best"), ("40", 40)])
def test_evaluate_takes_the_best_checkpoint_or_a_step(a_run, monkeypatch, capsys, word, step):
    result = SimpleNamespace(table=lambda: "a table")
    asked = []
    monkeypatch.setattr(jobs, "evaluate_run", lambda path, **options: asked.append(options["checkpoint"]) or result)
    assert run("evaluate", a_run, "--checkpoint", word, capsys=capsys)[0] == 0
    assert asked == [step]


def test_a_checkpoint_that_is_no_step_is_refused(a_run, capsys):
    code, _, err = run("sample", a_run, "--checkpoint", "last", capsys=capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert "--checkpoint is last" in err


def test_sample_takes_prompts_or_their_number(a_run, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        jobs, "sample_run", lambda path, prompts, **_: asked.append(prompts) or [{"prompt": "p", "c": 1}]
    )
    assert run("sample", a_run, capsys=capsys)[:2] == (0, "prompt: p\nc: 1\n")
    run("sample", a_run, "--prompts", "2", capsys=capsys)
    run("sample", a_run, "1+1=", "2+2=", capsys=capsys)
    assert asked == [4, 2, ["1+1=", "2+2="]]


def test_what_a_model_writes_reaches_the_terminal_as_text(a_run, monkeypatch, capsys):
    item = {"prompt": "p", "completion": "\x1b[2J\x1b]0;owned\x07 lone \ud800\nnext", "reward": 0.5}
    monkeypatch.setattr(jobs, "sample_run", lambda *_, **__: [item])
    code, out, _ = run("sample", a_run, capsys=capsys)
    assert code == 0
    assert out == "prompt: p\ncompletion: \\x1b[2J\\x1b]0;owned\\x07 lone \\ud800\nnext\nreward: 0.5\n"


# --- as processes


def test_the_training_script_is_the_train_command(tmp_path):
    script = [sys.executable, str(ROOT / "run_training.py"), "training.stepz=3"]
    done = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "did you mean `training.steps`?" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_version_is_told_without_importing_jax():
    program = "import sys; from agent_tunix import cli; cli.main(['version']); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0
