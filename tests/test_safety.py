"""Nothing that the package reads can run code; what could is listed with the reason why not."""

import subprocess
import sys

import pytest

from test_imports import MODULES, SOURCE
from unsafe_code import FORBIDDEN, METHODS, findings

EXCEPTIONS = {
    ("training/unpickling.py", "torch.load"): "the one reader of foreign weights, in a process of "
    "its own, of weights alone",
    ("engines/export.py", "torch.export.save"): "hemaseg export writes this format for others",
    ("engines/export.py", "torch.export.load"): "reads back the file that the line before wrote, "
    "to compare its masks; no file of a user comes there",
    ("training/device.py", "ctypes"): "the C library that runs already, for mallopt; no file",
}
"""Module and what it may mention, and why."""


def test_nothing_in_the_package_can_run_foreign_code() -> None:
    found = {
        (path.relative_to(SOURCE).as_posix(), what): f"line {line}: {rule}"
        for path in [*MODULES, SOURCE / "__init__.py"]
        for line, rule, what in findings(path.read_text(encoding="utf-8"))
    }
    assert found.keys() == EXCEPTIONS.keys(), {
        "forbidden": {key: found[key] for key in found.keys() - EXCEPTIONS.keys()},
        "exceptions that nothing needs": EXCEPTIONS.keys() - found.keys(),
    }


UNSAFE = {
    "pickle": [
        "import pickle",
        "import cPickle",
        "import _pickle",
        "import cloudpickle",
        "import dill as d",
        "from joblib import load",
        "import shelve",
        "import marshal",
        "def f():\n    from pickle import loads as read",
        "import pandas as pd\npd.read_pickle('x')",
        "table.to_pickle('x')",
        "class A:\n    x = object.__reduce__",
        "import numpy as np\nnp.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nnp.load('x', allow_pickle=flag)",
        "from numpy import load as read\nread('x')",
        "np.save('x', y, allow_pickle=True)",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "import torch\ntorch.load('x', weights_only=flag)",
        "import torch\ntorch.load('x', **options)",
        "from torch import load as read\nread('x')",
    ],
    "evaluation": [
        "eval('1')",
        "exec('1')",
        "compile('1', '', 'eval')",
        "f = eval",
        "import builtins\nbuiltins.exec('1')",
        "from builtins import eval as e",
        "import runpy",
        "import pandas as pd\npd.eval('1')",
    ],
    "import by name": [
        "__import__(name)",
        "import importlib\nimportlib.import_module(name)",
        "from importlib import import_module",
        "from importlib.util import spec_from_file_location",
        "spec.loader.exec_module(module)",
    ],
    "shell": [
        "import os\nos.system('ls')",
        "from os import system as s",
        "import os as o\no.popen('ls')",
        "import os\nos.execvp('ls', [])",
        "import os\nos.spawnl(0, 'ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "from subprocess import Popen\nPopen('ls', shell=flag)",
        "import subprocess\nsubprocess.run('ls', **options)",
        "import subprocess\nsubprocess.getoutput('ls')",
    ],
    "other processes": [
        "import multiprocessing",
        "from multiprocessing import Pool",
        "import torch.multiprocessing as mp",
        "from concurrent.futures import ProcessPoolExecutor",
        "import torch\ntorch.distributed.all_gather_object(a, b)",
        "from torch import distributed as d\nd.broadcast_object_list(a)",
    ],
    "machine code": ["import ctypes", "import torch\ntorch.ops.load_library('x')"],
    "torch": [
        "import torch\ntorch.load('x', weights_only=True)",
        "import torch\ntorch.save(x, 'x')",
        "import torch\ntorch.hub.load('x', 'y')",
        "from torch import hub",
        "import torch.hub",
        "import torch\ntorch.jit.load('x')",
        "import torch\ntorch.serialization.add_safe_globals([x])",
    ],
    "unpacking": [
        "archive.extractall(folder)",
        "archive.extract('x')",
        "import shutil\nshutil.unpack_archive('x')",
        "import tarfile\ntarfile.open('x').extractall()",
        "import zipfile\nwith zipfile.ZipFile('x') as z:\n    z.extract('y')",
    ],
    "yaml": ["import yaml\nyaml.load('x')", "from yaml import safe_load"],
}
SAFE = """
code = compile_time = 1
import re, os.path, subprocess, torch, zipfile
import numpy as np
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from traceback import extract_tb

re.compile("x")
torch.compile(network)
network.eval()
subprocess.run(["ls"], shell=False, check=True)
np.load("x", allow_pickle=False)
np.save("x", values)
code.x = 2
json.load(file)
archive.open("member")
torch.distributed.all_reduce(values)
torch.export.export(network, images)
"""


@pytest.mark.parametrize(
    ("rule", "source"), [(rule, source) for rule, all_ in UNSAFE.items() for source in all_]
)
def test_the_search_finds_what_is_forbidden(rule: str, source: str) -> None:
    assert rule in {found for _, found, _ in findings(source)}


def test_the_search_leaves_alone_what_is_not() -> None:
    assert findings(SAFE) == []
    assert UNSAFE.keys() == FORBIDDEN.keys() | METHODS.keys()


def test_loading_a_model_reads_no_pickle_and_runs_no_text() -> None:
    """The same, from the interpreter: it tells of each class that a pickle names, and each exec."""
    code = f"""
import sys
from pathlib import Path
import torch
from hemaseg.training.checkpoint import load_model

with torch.device("meta"):  # For which PyTorch imports a module of its own.
    pass
seen = []
sys.addaudithook(lambda event, _: seen.append(event))
load_model(Path({str(SOURCE / "weights" / "ct")!r}))
assert "open" in seen
print(sorted({{"pickle.find_class", "exec", "compile", "os.system", "marshal.loads"}} & set(seen)))
"""
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ended.stdout == "[]\n"
