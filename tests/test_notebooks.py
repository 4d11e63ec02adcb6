"""The notebooks run as they are, and what is shown beside their cells belongs to these cells."""

import re
import sys
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import notebooks  # noqa: E402

NAMES = notebooks.names()
pytestmark = pytest.mark.filterwarnings("default")  # of Jupyter's own libraries


def cells(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def read(name):
    return jupytext.read(notebooks.NOTEBOOKS / f"{name}.py"), nbformat.read(
        notebooks.NOTEBOOKS / f"{name}.ipynb", as_version=4
    )


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def test_there_are_five():
    assert NAMES == ["compare_methods", "compose_and_shape", "quickstart", "read_a_report", "write_a_reward"]


@pytest.mark.parametrize("name", NAMES)
def test_text_and_notebook_have_the_same_cells(name):
    text, notebook = read(name)
    assert cells(text) == cells(notebook)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_was_executed_from_top_to_bottom_and_shows_pictures(name):
    notebook = read(name)[1]
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    assert counts == list(range(1, len(counts) + 1))
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook))
    assert (notebooks.NOTEBOOKS / f"{name}.ipynb").stat().st_size < 400_000


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_shows_no_folder_of_the_machine_it_ran_on(name):
    shown = (notebooks.NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8")
    assert re.findall(r"/(?:home|root|tmp|work|Users)/", shown) == []


@pytest.mark.parametrize("name", NAMES)
def test_links_of_a_notebook_lead_somewhere(name):
    prose = "\n".join(cell.source for cell in read(name)[0].cells if cell.cell_type == "markdown")
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", prose) if not re.match("https?:", target)]
    assert [target for target in targets if not (notebooks.NOTEBOOKS / target).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("AGENT_TUNIX_CACHE", str(ROOT / ".cache" / "tests"))
    done = notebooks.executed(name, tmp_path)
    pictures = [output for output in outputs(done) if "image/png" in output.get("data", {})]
    kept = [output for output in outputs(read(name)[1]) if "image/png" in output.get("data", {})]
    assert len(pictures) == len(kept) > 0
