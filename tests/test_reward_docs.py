"""The pages about rewards leave nothing out, lead somewhere, and show what the commands really print."""

import dataclasses
import re
from collections import Counter
from pathlib import Path

import pytest

from agent_tunix import rescoring, rewards
from agent_tunix.cli import main
from agent_tunix.config import RewardConfig

DOCS = Path(__file__).parents[1] / "docs"
REFERENCE = "api/rewards"
GUIDES = ("custom_rewards", "composing_rewards", "running_graders", "preflight_and_rescore", "reward_issues")
CONCEPTS = ("scores_and_validity", "shaping_state")
PAGES = (REFERENCE, *(f"guides/{name}" for name in GUIDES), *(f"concepts/{name}" for name in CONCEPTS))
DIRECTIVE = re.compile(r"^\.\. (?:auto(?:function|class|exception)|py:data):: (\w+)$", re.MULTILINE)
SECTIONS = [
    "built-in-reward-functions", "combined-reward", "custom-reward-functions", "reward-design-patterns",
    "reward-shaping", "reward-debugging", "common-reward-issues", "testing-rewards", "next-steps", "reference",
    "agent_tunixtext", "agent_tunixtypes",
]  # fmt: skip
ISSUES = {
    "always-near-0-or-1", "too-noisy", "reward-hacking", "no-value", "dead-component", "flat-groups", "length",
}  # fmt: skip


def read(page: str) -> str:
    return (DOCS / f"{page}.md").read_text(encoding="utf-8")


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)


def anchors(text: str, levels: str = "#{1,3}") -> list[str]:
    """The anchors of headings: lower case, a hyphen for every space, nothing else that is no letter or digit."""
    headings = re.findall(rf"^{levels} (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\s-]", "", heading.lower()).replace(" ", "-") for heading in headings]


def text_block(page: str, start: str) -> list[str]:
    """The lines of the fenced text that begins with the given words."""
    found = re.search(rf"^```text\n({re.escape(start)}.*?)^```$", read(page), re.MULTILINE | re.DOTALL)
    assert found, start
    return found[1].splitlines()


# --- What is on the pages ---------------------------------------------------------------------------------------------


def test_every_public_name_is_on_the_reference_page_once():
    counts = Counter(DIRECTIVE.findall(read(REFERENCE)))
    assert set(counts) == set(rewards.__all__)
    assert [name for name, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("name", sorted(rewards.__all__))
def test_what_the_reference_page_names_exists(name):
    assert getattr(rewards, name) is not None


def test_the_reference_page_keeps_the_documented_order():
    assert anchors(prose(REFERENCE), "##") == SECTIONS


@pytest.mark.parametrize("page", PAGES)
def test_pages_about_rewards_are_in_the_table_of_contents(page):
    toctrees = re.findall(r"```\{toctree\}\n(.*?)```", read("index"), re.DOTALL)
    assert [line for toctree in toctrees for line in toctree.splitlines()].count(page) == 1


def test_every_combinator_length_reward_and_shaping_is_in_the_guide():
    guide = read("guides/composing_rewards")
    sections = re.split(r"^### ", read(REFERENCE), flags=re.MULTILINE)
    titles = ("From rewards to rewards", "Length", "From scores to scores")
    wanted = {name for text in sections if text.startswith(titles) for name in DIRECTIVE.findall(text)}
    assert {"weighted_sum", "concise", "anneal"} <= wanted
    explained_elsewhere = {"CurriculumState", "RunningMean", "RunningMoments", "default", "identity", "mixed_groups"}
    explained_elsewhere |= {"RunningRange", "center_running", "flat_groups", "step_differences"}
    assert [name for name in sorted(wanted - explained_elsewhere) if f"{name}(" not in guide] == []


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(RewardConfig)])
def test_every_setting_of_the_reward_is_explained(field):
    assert any(f"reward.{field}" in read(page) for page in PAGES)


def test_every_issue_has_an_anchor_to_link_to():
    assert set(anchors(prose("guides/reward_issues"), "##")) == ISSUES


@pytest.mark.parametrize("page", PAGES)
def test_links_to_sections_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)\s]*)#([^)\s]+)\)", prose(page))
    broken = [
        (path, anchor)
        for path, anchor in targets
        if not path.startswith("http") and anchor not in anchors(_text_of(page, path))
    ]
    assert broken == []


def _text_of(page: str, path: str) -> str:
    target = (DOCS / f"{page}.md").parent / path if path else DOCS / f"{page}.md"
    return target.read_text(encoding="utf-8")


def test_a_broken_section_is_noticed():
    assert anchors("# One\n\n## Two words, and `code.py`\n\n#### Deep\n") == ["one", "two-words-and-codepy"]


# --- What commands print ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "code"), [("my_rewards.py:contains", 1), ("default", 0)])
def test_the_page_shows_what_preflight_prints(name, code, tmp_path, monkeypatch, capsys):
    source = re.search(r"^```python\n(def contains.*?)^```$", read("guides/preflight_and_rescore"), re.M | re.S)
    assert source
    (tmp_path / "my_rewards.py").write_text(source[1], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["preflight", name, "--data", "arithmetic"]) == code
    printed = capsys.readouterr().out.splitlines()
    shown = text_block("guides/preflight_and_rescore", f"reward `{name.partition(':')[2] or name}`")
    assert [line for line in shown if line not in (*printed, "...", "")] == []


def test_the_page_shows_what_rescore_prints():
    moved = tuple(
        rescoring.Moved(step, prompt, completion, -0.2626, 0.0)
        for step, prompt, completion in (
            (19, "6 5 8 8 6=", "9 6 6 8 Z6</answer>"),
            (18, "0 8 0 9 2=", "<answer>0 0 3"),
            (18, "6 6 9 5 4=", "5 4 5 5 6</answer>"),
        )
    )
    result = rescoring.Rescored(
        completions=2560, groups=320, lost=0, gained=0, mean_before=0.359, mean_after=0.114, rank_correlation=0.777,
        rank_correlation_within=0.884, distance=0.150, best_turned=84, worst_turned=84, flat_before=0.222,
        flat_after=0.484, parts_after={"correctness": 0.114}, failures={}, moved=moved,
    )  # fmt: skip
    shown = text_block("guides/preflight_and_rescore", "2560 completions")
    assert rescoring.table(result).splitlines() == shown
