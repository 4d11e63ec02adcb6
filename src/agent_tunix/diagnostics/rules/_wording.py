"""How rules say what they found."""

from collections.abc import Mapping

from agent_tunix.diagnostics.findings import Finding

REWARD_PAGE = "docs/guides/reward_issues.md"
RULE_PAGE = "docs/guides/health_rules.md"
SEED_CARD = "metrics.help, card `rewards`"


def finding(
    rule: str,
    level: str,
    steps: tuple[float, float],
    message: str,
    evidence: Mapping[str, float | str],
    remedy: str,
    page: str = "",
    sources: tuple[str, ...] = (),
) -> Finding:
    """A finding with plain rounded numbers and the page that tells more.

    Args:
      rule: Id.
      level: `info`, `warn` or `error`.
      steps: First and last step concerned.
      message: One sentence.
      evidence: Its numbers.
      remedy: One or two sentences.
      page: Page and anchor, that of the rule itself if empty.
      sources: Where the rule comes from.
    """
    plain = {name: value if isinstance(value, str) else rounded(value) for name, value in evidence.items()}
    first, last = (round(float(step)) for step in steps)
    link = page or f"{RULE_PAGE}#{rule}"
    return Finding(rule, level, (first, max(first, last)), message, plain, f"{remedy} See {link}.", sources)


def rounded(value: float) -> float:
    """Four significant digits."""
    return float(f"{float(value):.4g}")


def bounds_note(presumed: bool) -> str:
    """What to add where nobody declared bounds."""
    return " (no bounds given, taken as 0 to 1)" if presumed else ""
