"""Runs our classes through transformers' own common testers, which lie in the folder TRANSFORMERS_TESTS.

`make test-peers` fetches them. not_applicable.toml lists the tests that are expected to fail, each with its reason.
"""

import contextlib
import importlib
import os
import re
import sys
import tomllib
import types
import unittest
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from transformers import testing_utils

HERE = Path(__file__).parent
TESTERS = os.environ.get("TRANSFORMERS_TESTS")
# What the testers import of transformers' repository that is not in its source distribution. Tests that live in the
# absent modules run only where TRANSFORMERS_TESTS is the folder of a checkout.
ABSENT = {
    "fetch_hub_objects_for_ci": {"url_to_local_path": lambda url: url},
    "transformers_tests.exporters": {},
    "transformers_tests.exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "transformers_tests.generation": {},
    "transformers_tests.generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
}

if TESTERS:
    spec = ModuleSpec("transformers_tests", None, is_package=True)
    spec.submodule_search_locations = [TESTERS]
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    sys.path.append(str(Path(TESTERS, "../utils")))
    for name, contents in ABSENT.items():
        if not importlib.util.find_spec(name):
            sys.modules[name] = types.ModuleType(name)
            vars(sys.modules[name]).update(contents, __path__=[])
else:
    collect_ignore_glob = ["test_*.py"]


@contextlib.contextmanager
def part_of_the_test(self, *_, **__):
    try:
        yield
    except unittest.SkipTest:
        pass


unittest.TestCase.subTest = part_of_the_test  # a failure is the whole test's, which a listed one must have


def pytest_configure(config):
    for path in [Path(testing_utils.__file__), *Path(TESTERS or HERE).glob("test_*.py")]:
        for mark in re.findall(r"\bmark\.(\w+)", path.read_text(encoding="utf-8")):
            config.addinivalue_line("markers", f"{mark}: of transformers")


def pytest_collection_modifyitems(items):
    """A listed test has to fail, so that the list stays true."""
    listed = tomllib.loads((HERE / "not_applicable.toml").read_text(encoding="utf-8"))
    for item in items:
        reason = listed.get(item.cls.__name__, {}).get(item.originalname) if item.cls else None
        if reason:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
