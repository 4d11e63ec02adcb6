"""Executes the notebooks and writes what they show beside their cells.

    python benchmarks/notebooks.py
    python benchmarks/notebooks.py write_a_reward compare_methods

Cells are read from `notebooks/NAME.py`, the text that is edited and reviewed; `notebooks/NAME.ipynb` holds the same
cells with their outputs. Each notebook runs in an empty folder of its own; `docs/notebooks.md` says how long one took.
"""

import argparse
import base64
import io
import os
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
CELL_S = 600
"""Seconds that a cell may take; a busy machine is no error."""
COLOURS = 128
"""Of a picture's palette."""


def names() -> list[str]:
    """The notebooks there are, in alphabetical order."""
    return sorted(path.stem for path in NOTEBOOKS.glob("*.py"))


def executed(name: str, folder: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of a run in a folder.

    Raises:
      nbclient.exceptions.CellExecutionError: A cell failed.
    """
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # of tqdm, about widgets that nothing here uses
    notebook = jupytext.read(NOTEBOOKS / f"{name}.py")
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    client = NotebookClient(notebook, timeout=CELL_S, kernel_name="python3", resources={"metadata": {"path": folder}})
    client.execute()
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # random ones would differ each time
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = _smaller(output.data["image/png"])
    return notebook


def _smaller(picture: str) -> str:
    """A PNG in base64 with a palette of 128 colours, a third of the bytes; plots do not show the difference."""
    out = io.BytesIO()
    opened = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    opened.quantize(COLOURS, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def main() -> None:
    """Executes the notebooks that were named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=names(), metavar="NAME", help=f"of {', '.join(names())}")
    cache = os.environ.setdefault("AGENT_TUNIX_CACHE", str(NOTEBOOKS.parent / ".cache" / "agent_tunix"))
    print(f"compiled programs are kept in {cache}")
    for name in parser.parse_args().names:
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            notebook = executed(name, Path(folder))
        nbformat.write(notebook, NOTEBOOKS / f"{name}.ipynb")
        size = (NOTEBOOKS / f"{name}.ipynb").stat().st_size
        print(f"{name}: {time.monotonic() - started:.0f} s, {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
