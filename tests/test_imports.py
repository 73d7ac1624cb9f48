"""The flow of docs/architecture.md: who may import whom, and who may load what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "hemaseg"
FLOW = (
    *(
        "errors",
        "files",
        "config",
        "interruption",
        "versions",
        "scans",
        "dicom",
        "intake",
        "phantoms",
        "cohorts",
        "slices",
        "metrics",
    ),
    *(
        "models",
        "training",
        "weights",
        "engines",
        "prediction",
        "evaluation",
        "statistics",
        "comparison",
    ),
    *("studies", "reporting", "demo", "benchmark", "cli", "__main__"),
)
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")
WITH_TORCH = {"slices", "models", "training", "engines", "prediction", "benchmark"}


def package(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """First part below hemaseg of everything that a module imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            assert not (isinstance(node, ast.ImportFrom) and node.level), (
                f"relative import in {path}"
            )
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("hemaseg.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_follow_the_flow(path: Path) -> None:
    own = FLOW.index(package(path))
    against = {name for name in imported(path) if FLOW.index(name) > own}
    assert not against, f"{path.name} imports {against}, which come later in the flow"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_torch_is_loaded_only_where_networks_are(path: Path) -> None:
    if package(path) in WITH_TORCH and path.name != "paths.py":
        pytest.skip("this package works with networks")
    module = "hemaseg." + ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    code = f"import sys, {module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_command_line_loads_nothing_heavy() -> None:
    code = (
        "import sys, hemaseg.cli; "
        "assert not {'torch', 'numpy', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_module_has_its_test_file() -> None:
    tests = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    shared = {
        "blocks": "models",
        "catalogue": "models",
        "cost": "models",
        "dense_unet": "models",
        "dr_unet": "models",
        "textbook_unet": "models",
        "unet": "models",
        "__main__": "cli",
        "engines": "cli",
        "ceilings": "bench",
        "contenders": "bench",
        "inputs": "bench",
        "launcher": "whole_process",
        "worker": "bench",
        "cohorts": "cli",
        "comparing": "cli",
        "phantoms": "cli",
        "predictor": "cases",
        "program": "cli",
        "scans": "cli",
        "training": "cli",
        "epochs": "loop",
        "interruption": "resumption",
        "optimisation": "loop",
        "notes": "paired",
        "style": "figures",
        "validation": "loop",
    }
    modules = {
        f"dicom_{path.stem}" if package(path) == "dicom" else path.stem
        for path in MODULES
        if path.name != "__init__.py"
    }
    missing = {name for name in modules if shared.get(name, name) not in tests}
    assert not missing
