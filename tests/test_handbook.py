"""The page about the health rules is generated from their docstrings."""

import re
from pathlib import Path

from agent_tunix.diagnostics import handbook, rules
from agent_tunix.diagnostics.rules import RULES, _wording

PAGE = Path(__file__).parents[1] / "docs" / "guides" / "health_rules.md"


def test_the_page_is_not_stale():
    again = "python -c \"from agent_tunix.diagnostics import handbook; print(handbook.page(), end='')\""
    assert PAGE.read_text(encoding="utf-8") == handbook.page(), f"write it again: {again} > {PAGE.name}"


def test_every_rule_has_a_section_with_its_thresholds():
    page = handbook.page()
    for rule in RULES:
        assert f"\n## {rule.__name__}\n" in page
        section = page.split(f"\n## {rule.__name__}\n")[1].split("\n## ")[0]
        defaults = rule.__kwdefaults__ or {}
        assert [name for name in defaults if f"| `{name}` | {defaults[name]} |" not in section] == []


def test_every_page_that_a_remedy_names_has_the_place():
    source = Path(rules.__file__).parent
    named = {
        match[1] for file in source.glob("*.py") for match in re.finditer(r"REWARD_PAGE\}#([\w-]+)", file.read_text())
    }
    headings = re.findall(r"^## (.+)$", (PAGE.parent / "reward_issues.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert named
    assert named <= {heading.lower().replace(" ", "-") for heading in headings}
    assert Path(_wording.REWARD_PAGE).name == "reward_issues.md"
    assert Path(_wording.RULE_PAGE).name == PAGE.name
