"""The rooms of the package, proved from its imports: sources are parsed, not run."""

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "agent_tunix"

ROOMS: dict[int, tuple[str, ...]] = {
    0: ("text", "errors", "meshes", "plain", "types", "runs", "sketch"),
    1: (
        "hosts",
        "batching",
        "buckets",
        "devices",
        "streams",
        "drawing",
        "advantages",
        "turns",
        "losses",
        "optimizers",
        "rewards",
    ),
    2: (
        "tokenizers",
        "tasks",
        "data",
        "models",
        "reward_models",
        "hugging_face",
        "layouts",
        "sampling",
        "conversations",
        "checkpoints",
        "measures",
        "weight_limits",
        "components",
        "mixing",
        "curricula",
    ),
    3: ("updates", "collecting", "ahead", "supervised", "training", "engines", "evaluation", "display"),
    4: (
        "contributions",
        "reward_analysis",
        "reward_quality",
        "probes",
        "preflight",
        "rescoring",
        "component_walks",
        "component_gradients",
        "diagnostics",
    ),
    5: ("reports",),
    6: (
        "papers",
        "config",
        "lookup",
        "sources",
        "recipes",
        "overrides",
        "workshop",
        "policies",
        "planning",
        "watching",
        "trackers",
        "sinks",
        "jobs",
        "tradeoff_text",
        "tradeoffs",
    ),
    7: ("cli", "__main__"),
}
"""A module, or a folder, imports from lower rooms, from what stands before it in its own room, and from its own folder.

A new module has no place until it is written in here.
"""

CORE = [name for room, names in ROOMS.items() if room < 6 for name in names]
ORDER = [name for names in ROOMS.values() for name in names]

BORDERS = {
    "tunix": {"models", "planning", "sampling", "training", "checkpoints", "engines"},
    "qwix": {"models", "sampling", "training", "checkpoints", "engines"},
    "transformers": {"tokenizers", "hugging_face"},
    "sentencepiece": {"tokenizers"},
    "safetensors": {"hugging_face"},
    "huggingface_hub": {"hugging_face"},
    "kagglehub": {"hugging_face", "tasks"},
    "reasoning_gym": {"tasks"},
    "hydra": {"config", "overrides", "recipes", "cli"},
    "omegaconf": {"config", "overrides", "recipes", "cli"},
    "matplotlib": {"reports"},
    "tensorboardX": {"trackers", "diagnostics"},
    "wandb": {"trackers"},
    "trackio": {"trackers"},
    "mlflow": {"trackers"},
    "plotly": {"reports"},
    "seaborn": {"reports"},
}
"""Third-party packages and the only places that may import them."""

GRADERS = (
    "text",
    "rewards._aspects",
    "rewards._code",
    "rewards._documented",
    "rewards._equations",
    "rewards._answers.forms",
    "rewards._graders",
    "rewards._reasoning",
    "rewards._answers.latex",
    "rewards._answers.numbers",
    "rewards._patterns",
    "rewards._calls.pool",
    "rewards._answers.symbolic",
    "rewards._texts",
    "rewards._tools",
    "rewards._universal",
    "rewards._calls.worker",
    "rewards._calls.workplace",
    "rewards.custom",
)
METHOD_TABLES = {"ESTIMATORS", "RATIOS", "DIVERGENCES", "AGGREGATIONS", "SURROGATES"}


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}
"""Dotted name below the package to its file; the package itself is the empty name."""


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of everything a module imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parsed(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def own_imports(name: str) -> set[str]:
    """Modules of the package that a module imports."""
    found = set()
    for full in imported(parsed(name)):
        if full.partition(".")[0] == SOURCE.name:
            inside = full.removeprefix(SOURCE.name).lstrip(".")
            # `agent_tunix.types.Score` is the module `types`; `agent_tunix.models` is itself.
            while inside not in MODULES:
                inside = inside.rpartition(".")[0]
            found.add(inside)
    return found


def place(name: str) -> str:
    """The entry of the table a module belongs to: itself or its folder."""
    return name.partition(".")[0]


def refused(importer: str, target: str) -> bool:
    """Whether an import goes up, or sideways against the order of its room."""
    if place(importer) == place(target):
        return False
    return not target or ORDER.index(place(target)) > ORDER.index(place(importer))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def docstring(node: ast.AST) -> ast.Constant | None:
    """The node of a docstring."""
    body = getattr(node, "body", None)
    match body[0] if isinstance(body, list) and body else None:
        case ast.Expr(value=ast.Constant(value=str()) as text):
            return text
    return None


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function from `def` to its end, without those of its docstring."""
    text = docstring(function)
    return function.end_lineno - function.lineno + 1 - (text.end_lineno - text.lineno + 1 if text else 0)


def test_every_module_has_a_room_and_every_room_its_modules():
    places = {place(name) for name in MODULES if name}
    assert sorted(places) == sorted(ORDER)


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_imports_go_downward_or_stay_in_their_folder(name):
    assert [target for target in own_imports(name) if refused(name, target)] == []


@pytest.mark.parametrize(
    ("importer", "target", "wrong"),
    [
        ("runs", "plain", False),  # earlier in the same room
        ("plain", "runs", True),  # later in the same room
        ("types", "advantages", True),  # up
        ("rewards._compose", "rewards._lift", False),  # own folder
        ("rewards._shaping", "sampling", True),
        ("cli", "config", False),  # down
        ("jobs", "", True),  # the package itself imports what is above everything
    ],
)
def test_the_rule_tells_up_from_down(importer, target, wrong):
    assert refused(importer, target) is wrong


def test_core_imports_no_paper_and_no_config():
    above = ("agent_tunix.papers", "agent_tunix.config", "agent_tunix.recipes")
    culprits = [
        (name, full)
        for name in MODULES
        if place(name) in CORE
        for full in imported(parsed(name))
        if full.startswith(above)
    ]
    assert culprits == []


@pytest.mark.parametrize("package", BORDERS)
def test_third_party_packages_stay_behind_their_border(package):
    importers = {
        place(name) for name in MODULES for full in imported(parsed(name)) if full.partition(".")[0] == package
    }
    assert importers <= BORDERS[package]


@pytest.mark.parametrize("name", GRADERS)
def test_graders_import_no_jax(name):
    seen, waiting, packages = set(), [name], set()
    while waiting:
        module = waiting.pop()
        seen.add(module)
        packages |= {full.partition(".")[0] for full in imported(parsed(module))}
        waiting += own_imports(module) - seen - {"", "rewards"}
    assert packages.isdisjoint({"jax", "jaxlib", "jaxtyping", "flax", "optax"})


def test_graders_grade_where_jax_cannot_be_imported():
    code = """
import sys
sys.modules.update(dict.fromkeys(("jax", "jaxlib", "jaxtyping", "flax", "optax")))  # None makes an import fail
from agent_tunix import rewards, text
assert rewards.exact_answer("<answer>$1,000</answer>", 1000) == 1.0
assert rewards.check_answer(["The answer is 95."], 100).tolist() == [0.5]
assert rewards.tag_format("4") == rewards.repetition("4") == 0.0
assert text.stated_answer("#### 4") == "4"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def method_names() -> set[str]:
    """The keys of the tables in `recipes` that turn names into methods."""
    found: dict[str, set[str]] = {}
    for node in parsed("recipes").body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        name = getattr(targets[0], "id", None)
        if name in METHOD_TABLES:
            assert isinstance(node.value, ast.Dict), name
            found[name] = {key.value for key in node.value.keys}
    assert found.keys() == METHOD_TABLES
    return set().union(*found.values())


@pytest.mark.parametrize("name", ["training", "sampling"])
def test_the_loop_never_names_a_method(name):
    tree = parsed(name)
    docstrings = {docstring(node) for node in ast.walk(tree)}
    literals = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings
    }
    assert literals & method_names() == set()


def test_array_modules_keep_their_annotations():
    postponed = [name for name in MODULES if "__future__.annotations" in imported(parsed(name))]
    assert postponed == []


def test_functions_are_small():
    sizes = sorted(code_lines(function) for name in MODULES for function in functions(parsed(name)))
    assert statistics.median(sizes) <= 12
    assert statistics.quantiles(sizes, n=10)[-1] <= 50


def test_the_training_loop_fits_on_a_page():
    fit = next(function for function in functions(parsed("training")) if function.name == "fit")
    assert code_lines(fit) < 120
