import ast
import inspect
import re
from pathlib import Path

from hemaseg import errors

DRAWN = re.findall(r"^ *(?:\|--|`--) (\w+) +(.+)$", inspect.getdoc(errors) or "", re.MULTILINE)


def test_tree_is_as_drawn() -> None:
    classes = [
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__doc__
    ]
    assert classes == ["HemasegError", *(name for name, _ in DRAWN)]
    for name, _ in DRAWN:
        assert getattr(errors, name).__bases__ == (errors.HemasegError,)
    assert errors.HemasegError.__bases__ == (Exception,)


def test_every_error_is_raised_somewhere() -> None:
    raised: set[str] = set()
    for path in Path(inspect.getfile(errors)).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                raised.add(ast.unparse(node.exc.func))
    assert {name for name, _ in DRAWN} <= raised


def test_no_error_passes_for_a_wrong_call_of_the_api() -> None:
    for name, _ in DRAWN:
        assert not issubclass(getattr(errors, name), ValueError | TypeError | OSError)
