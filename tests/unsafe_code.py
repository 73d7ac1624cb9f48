"""What in a module could run foreign code, found in its syntax tree.

Names are followed through imports (`from os import system as s`), and a mention counts as much as a
call. It finds what one writes by mistake or for comfort, not what is hidden on purpose.
"""

import ast
import builtins
from collections.abc import Iterator
from fnmatch import fnmatchcase

FORBIDDEN = {
    "pickle": "*pickle cPickle dill joblib shelve marshal copyreg pandas.HDFStore pandas.read_hdf",
    "evaluation": "eval exec compile code codeop runpy builtins.* pandas.eval",
    "import by name": "__import__ imp pkgutil importlib.import_module importlib.util.*spec_from* "
    "importlib.machinery importlib.reload importlib.__import__ pydoc.locate",
    "shell": "os.system os.popen os.exec* os.spawn* os.posix_spawn* os.startfile pty commands "
    "subprocess.getoutput subprocess.getstatusoutput asyncio.create_subprocess_shell",
    "other processes": "multiprocessing torch.multiprocessing concurrent.futures.process "
    "concurrent.futures.ProcessPoolExecutor torch.distributed.*object*",
    "machine code": "ctypes cffi torch.ops.load_library torch.utils.cpp_extension torch.classes",
    "torch": "torch.save torch.hub torch.package torch.jit torch.export.load torch.export.save "
    "torch.serialization",
    "yaml": "yaml ruamel",
}
"""Rule -> patterns of dotted names; a pattern stands for all that is below it too."""
METHODS = {
    "pickle": {"read_pickle", "to_pickle", "__reduce__", "__reduce_ex__", "__setstate__"},
    "unpacking": {"extract", "extractall", "unpack_archive", "_extract_member"},
    "import by name": {"load_module", "exec_module"},
}
"""Rule -> attributes that are forbidden whatever they are of."""


def findings(source: str) -> list[tuple[int, str, str]]:
    """Line, rule and pattern of everything in a module that is forbidden.

    >>> findings("from os import system as s\\ns('ls')")
    [(1, 'shell', 'os.system'), (2, 'shell', 'os.system')]
    """
    tree = ast.parse(source)
    names = _imported_names(tree)
    found = [
        finding
        for node in ast.walk(tree)
        for finding in (*_mentions(node, names), *_calls(node, names))
    ]
    return sorted(set(found))


def _imported_names(tree: ast.AST) -> dict[str, str]:
    """Local name -> what it stands for, of all imports at any depth."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _dotted(node: ast.AST, names: dict[str, str]) -> str:
    """The full name that an expression is; empty if it is none."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id if hasattr(builtins, node.id) else "")
    if isinstance(node, ast.Attribute) and (of := _dotted(node.value, names)):
        return f"{of}.{node.attr}"
    return ""


def _mentions(node: ast.AST, names: dict[str, str]) -> Iterator[tuple[int, str, str]]:
    if isinstance(node, ast.Import):
        mentioned = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        mentioned = [f"{node.module}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.Name | ast.Attribute):
        mentioned = [_dotted(node, names)]
    else:
        return
    for name in mentioned:
        for rule, patterns in FORBIDDEN.items():
            for pattern in patterns.split():
                if _is_below(name, pattern):
                    yield node.lineno, rule, pattern
    if isinstance(node, ast.Attribute):
        for rule, attributes in METHODS.items():
            if node.attr in attributes:
                yield node.lineno, rule, node.attr


def _is_below(name: str, pattern: str) -> bool:
    parts, depth = name.split("."), pattern.count(".") + 1
    return fnmatchcase(".".join(parts[:depth]), pattern)


def _calls(node: ast.AST, names: dict[str, str]) -> Iterator[tuple[int, str, str]]:
    """What is forbidden for its arguments."""
    if not isinstance(node, ast.Call):
        return
    name = _dotted(node.func, names)
    # None is the key of `**arguments`, which hide what they are.
    given = {keyword.arg: _literal(keyword.value) for keyword in node.keywords}
    if given.get("shell", False) is not False or (name.startswith("subprocess.") and None in given):
        yield node.lineno, "shell", "shell="
    if given.get("allow_pickle", False) is not False:
        yield node.lineno, "pickle", "allow_pickle="
    if name == "numpy.load" and given.get("allow_pickle", "absent") is not False:
        yield node.lineno, "pickle", "numpy.load without allow_pickle=False"
    if name == "torch.load":
        yield node.lineno, "torch", "torch.load"
        if given.get("weights_only") is not True:
            yield node.lineno, "pickle", "torch.load without weights_only=True"


def _literal(node: ast.expr) -> object:
    return node.value if isinstance(node, ast.Constant) else node
