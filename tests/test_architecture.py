"""The rank table of ARCHITECTURE.md is held: imports run one way, and the wall stands."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("automl_prune", "dashboards", "studies")
FORBIDDEN = {
    "compute": {"optuna", "sqlalchemy", "alembic", "plotly", "dash", "typer"},
    "control": {"torch", "torchvision", "safetensors", "sklearn"},
    "ground": {"torch", "torchvision", "optuna", "sqlalchemy", "plotly"},
}


def rank_table() -> dict[str, tuple[int, str]]:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rows = re.findall(r"^\| (\d+) \| `([\w.]+)` \| (\w+) \|", text, flags=re.MULTILINE)
    return {name: (int(rank), branch) for rank, name, branch in rows}


def source_files() -> dict[str, Path]:
    files = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def room_of(module: str, table: dict[str, tuple[int, str]]) -> str | None:
    """The longest entry of the table that the module is or lies in."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in table:
            return name
    return None


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


TABLE = rank_table()
FILES = source_files()
# The package's front door exports load_pruned lazily; it has no rank of its own.
MODULES = [name for name in FILES if name != "automl_prune"]


def test_every_module_has_a_rank():
    assert len(TABLE) > 15
    homeless = [name for name in MODULES if room_of(name, TABLE) is None]
    assert homeless == []


def test_the_table_names_only_what_exists():
    assert [name for name in TABLE if name not in FILES] == []


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_from_higher_to_lower_rank(module):
    room = room_of(module, TABLE)
    rank, branch = TABLE[room]
    for name in imported_modules(FILES[module]):
        top = name.split(".")[0]
        assert top not in FORBIDDEN.get(branch, set()), f"{module} ({branch}) imports {name}"
        if top not in PACKAGES or name == "automl_prune.__version__":
            continue
        other = room_of(name, TABLE)
        assert other is not None, f"{module} imports {name}, which is in no room"
        if other == room:
            continue
        other_rank, other_branch = TABLE[other]
        assert other_rank < rank, f"{module} (rank {rank}) imports {name} (rank {other_rank})"
        if branch in ("compute", "control", "ground"):
            assert other_branch in (branch, "ground"), f"{module} ({branch}) imports {name}"


@pytest.mark.parametrize(
    ("branch", "forbidden"), [("control", ("torch",)), ("compute", ("optuna", "sqlalchemy"))]
)
def test_a_branch_loads_without_the_other(branch, forbidden):
    modules = [m for m in MODULES if TABLE[room_of(m, TABLE)][1] == branch]
    code = f"import sys, {', '.join(modules)}\n" + "\n".join(
        f"assert {name!r} not in sys.modules, {name!r}" for name in forbidden
    )
    assert modules
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT, timeout=120)


SHARED_MIRRORS = {
    # The compact form and its parts are tested against the masked form, side by side.
    "automl_prune.inner.compact": "test_execution.py",
    "automl_prune.inner.dropout": "test_execution.py",
    "automl_prune.inner.narrowed": "test_execution.py",
    # Both ends of the pipe are tested through the worker that holds it, with real processes.
    "automl_prune.trial_child": "test_worker.py",
    "automl_prune.trial_process": "test_worker.py",
}


def test_every_module_has_its_mirror():
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    missing = []
    for module, path in FILES.items():
        # Verbs are tested as commands in tests/cli; migrations by tests/storage/test_schema.py.
        if path.name == "__init__.py" or {"cli", "migrations"} & set(path.parts):
            continue
        leaf, *_ = module.split(".")[::-1]
        if SHARED_MIRRORS.get(module, f"test_{leaf}.py") not in tests:
            missing.append(f"{module}: no tests/**/test_{leaf}.py")
    assert missing == []
