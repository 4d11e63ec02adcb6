"""The page about the health rules is generated from their docstrings."""

from pathlib import Path

from agent_tunix.diagnostics import handbook
from agent_tunix.diagnostics.rules import RULES

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
