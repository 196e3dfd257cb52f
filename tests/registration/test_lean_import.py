"""Parts of packages can be imported alone, and whole packages afterwards."""

import subprocess
import sys

import pytest

from nphm_core.registration.lean_import import bare_packages


def in_new_process(code: str) -> str:
    command = [sys.executable, "-c", "from nphm_core.registration.lean_import import bare_packages\n" + code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_part_comes_without_its_package_and_the_package_afterwards():
    code = """
import sys
with bare_packages("trimesh"):
    import trimesh.transformations
print("scipy" in sys.modules, "trimesh" in sys.modules)
import trimesh
print(len(trimesh.creation.box().faces), trimesh.transformations.rotation_matrix is not None)
"""
    assert in_new_process(code) == "False False\n12 True"


def test_a_package_that_is_there_already_stays():
    with bare_packages("numpy"):
        import numpy as np
    assert np.zeros(3).sum() == 0
    assert "numpy" in sys.modules


def test_a_kept_package_stays_bare():
    code = """
import sys
with bare_packages("wsgiref", keep=True):
    import wsgiref.util
print(sys.modules["wsgiref"].__doc__)
"""
    assert in_new_process(code) == "None"


def test_a_package_that_does_not_exist_is_named():
    with pytest.raises(ModuleNotFoundError, match="no_such_package"), bare_packages("no_such_package"):
        pass


def test_the_detector_brings_no_matplotlib():
    code = """
import sys
from nphm_core.registration.face_detector import FaceDetector
FaceDetector(refine=False, min_confidence=0.5).close()
print("matplotlib" in sys.modules)
"""
    assert in_new_process(code).splitlines()[-1] == "False"
