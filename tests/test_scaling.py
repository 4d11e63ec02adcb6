"""The scaling benchmark runs from end to end in tiny sizes, and its page shows what its result says."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
CACHE = Path(__file__).parents[1] / ".cache" / "tests" / "jax"
sys.path.insert(0, str(FOLDER))

import page_tables  # noqa: E402
import scaling  # noqa: E402
import scaling_page  # noqa: E402
from grpo_workloads import WORKLOADS, flops  # noqa: E402


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    path = tmp_path_factory.mktemp("scaling") / "scaling.json"
    kept = {"JAX_COMPILATION_CACHE_DIR": str(CACHE), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    command = [sys.executable, str(FOLDER / "scaling.py"), "--quick", "--steps", "1", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=os.environ | kept)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


@pytest.mark.slow
def test_everything_is_measured_in_tiny_sizes(result):
    (sweep,) = result["sweeps"].values()
    assert [one["value"] for one in sweep["cases"]] == [2, 4]
    small = dataclasses.replace(WORKLOADS["tiny"], group_size=2)
    for phase in scaling.PHASES:
        one = sweep["cases"][0]["phases"][phase]
        assert one["seconds"] > 0 and one["cpu_seconds"] >= 0
        due = flops(small, small.lengths[: small.prompts])[scaling.FLOORS.get(phase, phase)]
        assert one["floor_gflop"] == pytest.approx(due / 1e9, abs=2e-4)
    assert [one["value"] for one in result["components"]] == [1, 2]
    assert all(min(one.values()) > 0 for one in result["components"])
    assert [one["devices"] for one in result["devices"]["reports"]] == [1, 2]
    assert all(one["unexpected"] == [] for one in result["devices"]["reports"])


@pytest.mark.slow
def test_a_result_fills_the_tables_it_has(result):
    found = scaling_page.tables(result)
    assert found.keys() == {"machine", "group", "fits", "components", "devices"}
    assert len(found["group"]) == 2 + 2  # head, rule, and a line for each case
    assert "1 all-reduce" in found["devices"][-1] and "nothing" in found["devices"][-1]
    assert found["devices"][2].split(" | ")[1:4] == ["none"] * 3
    page = "".join(f"<!-- table: {name} -->\n<!-- end -->\n" for name in found)
    assert all("\n".join(lines) in page_tables.renewed(page, found) for lines in found.values())


def test_the_page_shows_the_numbers_of_its_result_file():
    page = scaling_page.PAGE.read_text(encoding="utf-8")
    tables = scaling_page.tables(scaling_page.read(scaling_page.RESULT))
    assert page_tables.renewed(page, tables) == page, "stale: run python benchmarks/scaling_page.py"


def test_a_line_finds_the_fixed_part_and_the_exponent():
    values = np.array([4, 8, 16, 32, 64])
    found = scaling.line(values, 3 + 0.5 * values)
    assert (found["fixed"], found["each"]) == pytest.approx((3, 0.5))
    assert found["error"] < 1e-9 and 0 < found["exponent"] < 1
    assert scaling.line(values, 2 * values**2)["exponent"] == pytest.approx(2)


def test_prompts_make_the_floor_grow_more_slowly_than_the_group():
    for name, least in (("group", 0.9), ("group_long", 0.5)):
        cases = scaling.sweeps()[name].cases
        floor = [flops(one, one.lengths[: one.prompts])["total"] for one in cases.values()]
        found = scaling.line(list(cases), floor)
        assert found["error"] < 1e-9  # a fixed part for the prompts, and one for each completion
        assert least < found["exponent"] < 1


def test_only_one_size_changes_in_a_sweep():
    for sweep in scaling.sweeps().values():
        settings = [dataclasses.asdict(workload) for workload in sweep.cases.values()]
        changed = {field for field in settings[0] if len({one[field] for one in settings}) > 1}
        assert changed in ({"group_size"}, {"completion_tokens"}, {"width", "heads", "kv_heads", "mlp"})
