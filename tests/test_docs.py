"""What the pages say is true: their code runs, their commands parse, and nothing public is left out."""

import argparse
import ast
import doctest
import importlib
import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import agent_tunix
from agent_tunix import cli, components, losses, measures, overrides, recipes
from agent_tunix.types import Outcome, Rollouts, Score, TokenBatch

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "agent_tunix"
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
TEXTS = [path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md") if path.is_file()] + PAGES
MODULES = {
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}
PUBLIC = [name for name in MODULES if not any(part.startswith("_") for part in name.split("."))]
SKIP = re.compile(r"<!-- skip: (?=.*\b(?:hub|GPU|TPU|accelerator)\b).+ -->")
"""Only what needs hardware or a hub may be left out."""


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    line: int
    code: str
    skipped: bool


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, with the line their code begins on."""
    lines = page.read_text(encoding="utf-8").splitlines()
    fence, start = None, 0
    for number, line in enumerate(lines):
        match = re.match(r"(`{3,})(\S*)", line)
        if fence is None and match:
            fence, start = match, number + 1
        elif fence is not None and line.rstrip() == fence[1]:
            code = "\n".join(lines[start:number])
            before = next((text for text in reversed(lines[: start - 1]) if text.strip()), "")
            yield Block(fence[2], start + 1, code, bool(SKIP.fullmatch(before.strip())))
            fence = None
    assert fence is None, f"{page}:{start} is not closed"


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(page: Path) -> list[str]:
    """The command lines of a page, continuation lines joined."""
    found = []
    for block in blocks(page):
        if block.language in ("bash", "sh", "console") and not block.skipped:
            lines = re.sub(r"\\\n\s*", "", block.code).splitlines()
            if block.language == "console":
                lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
            found += [line for line in lines if line.strip()]
    return found


# --- Code of pages ----------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder to work in; the suite's cache of compiled programs stays where it is, under its whole name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENT_TUNIX_CACHE", str(ROOT / ".cache" / "tests"))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", before and str(ROOT / before))
    compilation_cache.reset_cache()
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


@pytest.mark.parametrize("page", TEXTS, ids=page_id)
@pytest.mark.usefixtures("elsewhere")
def test_python_of_a_page_runs(page):
    code = [block for block in blocks(page) if block.language in ("python", "{code-block} python")]
    namespace = {"__name__": "page"}
    for block in code:
        if not block.skipped:
            padded = "\n" * (block.line - 1) + block.code  # so that a traceback names the line of the page
            exec(compile(padded, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", TEXTS, ids=page_id)
def test_commands_of_a_page_parse(page):
    for command in commands(page):
        check_command(shlex.split(command, comments=True))


def check_command(words: list[str]) -> None:
    """Parses a command as its program would, without running it."""
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    program, *rest = words or [""]
    if program.startswith("python") and rest[0] == "run_training.py":
        check_words(["train", *rest[1:]])
    elif program == "agent-tunix" or (program.startswith("python") and rest[:2] == ["-m", "agent_tunix"]):
        check_words(rest[2:] if program != "agent-tunix" else rest)
    elif program.startswith("python") and rest[0].endswith(".py"):
        assert (ROOT / rest[0]).is_file(), rest[0]
    elif program == "make":
        check_make(rest)


def check_words(words: list[str]) -> None:
    """Parses the words of the console script; those of `train` are composed and validated as well."""
    name, *rest = words
    if name in ("--version", "--help"):
        return
    parser = cli.Parser(name, add_help=False)
    for option in ("--debug", "--help"):
        parser.add_argument(option, action="store_true")
    cli.COMMANDS[name].arguments(parser)
    arguments: argparse.Namespace = parser.parse_intermixed_args(rest)
    if name == "train":
        jobs = overrides.sweep(arguments.overrides) if arguments.multirun else [arguments.overrides]
        for job in jobs:
            recipes.validate(overrides.load(job))


def check_make(words: list[str]) -> None:
    """A target has to exist in the Makefile; the overrides in ARGS of `make train` have to compose."""
    targets = [word for word in words if "=" not in word]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in targets:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"make {target}"
    for word in words:
        if word.startswith("ARGS=") and "train" in targets:
            check_words(["train", *shlex.split(word.removeprefix("ARGS="))])


@pytest.mark.parametrize(
    "words",
    [
        ["python", "run_training.py", "trainin.steps=5"],
        ["python", "run_training.py", "--multirun", "data=sorting,sortin"],
        ["agent-tunix", "evaluate", "runs/NAME", "--sample-count", "8"],
        ["make", "trian"],
        ["python", "benchmarks/nothing.py"],
    ],
)
def test_a_wrong_command_is_noticed(words):
    with pytest.raises((Exception, AssertionError), match=r"unknown|allowed|make trian|nothing"):
        check_command(words)


@pytest.mark.parametrize("page", TEXTS, ids=page_id)
def test_links_to_files_lead_somewhere(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", prose)]
    local = [target for target in targets if target and not re.match(r"[a-z]+:", target)]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", ["advanced/custom_rewards.md", "guide/training.md", "api/train.md", "api/rewards.md"])
def test_addresses_that_other_pages_link_to_stay_alive(page):
    assert (DOCS / page).is_file()


# --- Public names -----------------------------------------------------------------------------------------------------


def undocumented(tree: ast.Module) -> Iterator[str]:
    """Public functions, classes and methods without a docstring, those of protocols included, overloads left out."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if any(getattr(decorator, "id", "") == "overload" for decorator in node.decorator_list):
                continue
            if not ast.get_docstring(node):
                yield node.name
            for child in node.body if isinstance(node, ast.ClassDef) else ():
                if (
                    isinstance(child, ast.FunctionDef)
                    and not child.name.startswith("_")
                    and not ast.get_docstring(child)
                ):
                    yield f"{node.name}.{child.name}"


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_a_docstring(name):
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module itself"
    assert list(undocumented(tree)) == []


def test_a_missing_docstring_is_noticed():
    tree = ast.parse('def told():\n  "Words."\n\nclass Kept:\n  "Words."\n  def untold(self): ...\n\ndef bare(): ...')
    assert list(undocumented(tree)) == ["Kept.untold", "bare"]


def test_every_public_module_is_on_a_reference_page():
    shown = re.findall(r"automodule:: (\S+)", "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md")))
    papers = {name for name in PUBLIC if name.startswith("agent_tunix.papers.")}  # each has a page below docs/papers
    assert sorted(shown) == sorted(set(PUBLIC) - papers - {"agent_tunix"})
    assert {name.rpartition(".")[2] for name in papers} == {page.stem for page in (DOCS / "papers").glob("*.md")}


@pytest.mark.parametrize("name", [name for name in PUBLIC if hasattr(importlib.import_module(name), "__all__")])
def test_what_a_module_offers_exists_and_is_documented(name):
    module = importlib.import_module(name)
    offered = {public: getattr(module, public) for public in module.__all__}
    told = {public: value for public, value in offered.items() if inspect.isroutine(value) or inspect.isclass(value)}
    assert [public for public, value in told.items() if not value.__doc__] == []  # aliases of types cannot have one


def test_the_package_offers_a_whole_run_by_one_call():
    assert callable(agent_tunix.train)


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_examples_in_docstrings_hold(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


# --- Metrics ----------------------------------------------------------------------------------------------------------

FAMILY = r"(?:reward|source|curriculum|tradeoff|health|group|completion|advantage|policy|eval|time|throughput)"


def rollouts_of_two_tasks() -> Rollouts:
    ids = np.zeros((2, 2, 3), np.int32)
    return Rollouts(
        prompts=["a", "b"],
        completions=[["x", "y"], ["x", "y"]],
        columns={"task": ["one", "two"], "source": ["one", "two"]},
        prompt_ids=ids[:, 0],
        prompt_mask=np.full((2, 3), True),
        completion_ids=ids,
        completion_mask=np.full((2, 2, 3), True),
        truncated=np.array([[True, False], [False, False]]),
        logprobs=np.zeros((2, 2, 3), np.float32),
        old_logprobs=np.zeros((2, 2, 3), np.float32),
    )


def general_name(name: str) -> str:
    """The name of a measure of components as the page lists it."""
    name = re.sub(r"part/[AB]", "part/NAME", name).replace("B__A", "A__B")
    return re.sub(r"quadrant_\w+", "quadrant_pp_all", name)


def logged_names() -> set[str]:
    """Names of metrics: what the measures return, what the loss reports, and literals of the loop."""
    grid = np.arange(4.0).reshape(2, 2)
    outcomes = {"NAME": np.full((2, 2), Outcome.GRADED)}
    score = Score(grid, np.full((2, 2), True), {"NAME": grid}, outcomes, seconds={"NAME": grid})
    rollouts = rollouts_of_two_tasks()
    found = set(measures.reward_measures(score) | measures.group_measures(score) | measures.latency_measures(score))
    found |= set(measures.completion_measures(rollouts)) | {"health/RULE", "health/worst"}
    two = Score(grid, np.full((2, 2), True), {"A": grid, "B": grid[::-1] ** 2})
    found |= {general_name(name) for name in components.component_measures(two)}
    found |= {re.sub("one|two", "NAME", name) for name in measures.source_measures(rollouts, score)}
    found |= {re.sub("one|two", "NAME", name) for name in measures.mixture_measures(rollouts, score, grid)}
    zeros = jnp.zeros((2, 2, 3))
    tokens = TokenBatch(zeros, zeros, zeros, zeros, zeros, zeros, jnp.full((2, 2, 3), True))
    loss = losses.policy_loss(kl_coefficient=0.1, entropy_coefficient=0.1, mismatch_cap=2.0)
    found |= {f"policy/{name}" for name in loss.per_token(tokens)[1]}
    for name in ("training", "updates", "collecting", "curricula", "measures", "workshop"):
        tree = ast.parse((SOURCE / f"{name}.py").read_text(encoding="utf-8"))
        texts = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        found |= {text for text in texts if re.fullmatch(FAMILY + r"/[a-z_/]*[a-z]", text)}
    # Reported to say why the loop stops, and never written.
    return found - {"policy/finite"}


def test_the_list_of_metrics_is_complete():
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    listed = set(re.findall(rf"`({FAMILY}/[\w/]+)`", page))
    assert logged_names() - listed == set()


def test_the_list_of_metrics_names_nothing_else():
    listed = set(re.findall(rf"`({FAMILY}/[\w/]+)`", (DOCS / "metrics.md").read_text(encoding="utf-8")))
    trees = [
        ast.parse((SOURCE / f"{name}.py").read_text(encoding="utf-8"))
        for name in ("training", "collecting", "workshop")
    ]
    composed = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    # `eval/{prefix}accuracy` and `time/{name}_s`; the other families are known from what their functions return.
    patterns = [
        "".join(re.escape(part.value) if isinstance(part, ast.Constant) else r"\w*" for part in text.values)
        for text in composed
    ]
    patterns = [pattern for pattern in patterns if re.match("(?:eval|time)/", pattern)]
    unknown = listed - logged_names()
    assert [name for name in sorted(unknown) if not any(re.fullmatch(pattern, name) for pattern in patterns)] == []


# --- Changelog and site -----------------------------------------------------------------------------------------------


def test_the_changelog_keeps_its_form():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert text.startswith("# Changelog\n")
    releases = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - (?:Unreleased|\d{4}-\d{2}-\d{2})", release) for release in releases)
    assert releases[0].startswith(f"[{project['version']}]")
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert "Added" in kinds


def test_every_key_that_docstrings_cite_is_in_the_bibliography():
    keys = set(re.findall(r"^@\w+\{([^,]+),", (DOCS / "references.bib").read_text(encoding="utf-8"), re.MULTILINE))
    cited = {key for path in MODULES.values() for key in re.findall(r":cite:[pt:]*`([^`]+)`", path.read_text())}
    assert cited
    assert cited <= keys


def test_every_paper_that_docstrings_name_is_in_the_bibliography():
    bibliography = (DOCS / "references.bib").read_text(encoding="utf-8")
    named = {key for path in MODULES.values() for key in re.findall(r"\b2?\d{3}\.\d{5}\b", path.read_text())}
    assert named
    assert [paper for paper in sorted(named) if paper not in bibliography] == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    for package in ("sphinx", "myst_parser", "furo", "sphinxcontrib.bibtex"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(tmp_path)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stderr[-4000:]
    page = (tmp_path / "api" / "methods.html").read_text(encoding="utf-8")
    assert "group_normalized" in page and "jaxlib" not in page
