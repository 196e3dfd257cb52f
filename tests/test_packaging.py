"""Pins, environments, documents and contracts of the project agree with each other."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import metadata, packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from nphm_core.config import Config, Section, read_section
from workflow.reference import DOCUMENTS

STANDARD = set(sys.stdlib_module_names)
OWN = {"nphm_core", "pipelines", "workflow"}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lines: list[str]) -> dict[str, str]:
    found = (re.fullmatch(r"([A-Za-z0-9_.-]+)==(\S+)", line) for line in lines)
    return {canonical(match[1]): match[2] for match in found if match}


@pytest.fixture(scope="module")
def project(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def lock(repository: Path) -> dict[str, str]:
    return pins((repository / "requirements.lock").read_text().splitlines())


def imported_packages(root: Path, *folders: str) -> set[str]:
    found = set()
    for path in (path for folder in folders for path in (root / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").split(".")[0])
    return found - STANDARD - OWN


def test_every_line_of_the_lock_is_one_exact_public_pin(repository):
    lines = [line for line in (repository / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.]+", line)] == []
    assert "pip" not in pins(lines)


def test_direct_dependencies_are_pinned_as_in_the_lock(project, lock):
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    direct = pins(wanted)
    assert len(direct) == len(wanted)
    assert {name: lock.get(name) for name in direct} == direct


def test_each_import_of_the_code_is_a_direct_dependency(repository, project):
    owners = packages_distributions()
    # PyTorch's builds for GPUs bring Triton, which is imported only where kernels run.
    imports = imported_packages(repository, "nphm_core", "pipelines") - {"triton"}
    unknown = {name for name in imports if name not in owners}
    assert unknown == set()
    # The viewer is an extra; its command says so where it is missing.
    direct = set(pins(project["dependencies"])) | set(pins(project["optional-dependencies"]["view"]))
    # What the interpreter calls protobuf is google; SciPy's sparse solvers and the like come with their package.
    lacking = {name for name in imports if not {canonical(owner) for owner in owners[name]} & direct}
    assert lacking == set()


def test_the_installed_packages_are_those_of_the_lock(lock):
    from importlib.metadata import PackageNotFoundError, version

    different = {}
    for name, wanted in lock.items():
        try:
            installed = version(name).partition("+")[0]
        except PackageNotFoundError:
            installed = "missing"
        if installed != wanted:
            different[name] = (installed, wanted)
    if len(different) > 3:
        pytest.skip("this is not the locked environment: run `make test`")
    assert different == {}


def test_every_package_of_the_lock_installs_on_the_oldest_python(lock):
    # Debian 12's; one package that wants a later one stops a set-up there.
    oldest = "3.11.2"
    wanted = {name: metadata(name).get("Requires-Python") or "" for name in lock}
    assert {name: asked for name, asked in wanted.items() if oldest not in SpecifierSet(asked)} == {}


@pytest.mark.parametrize("kind", ["core", "face", "repair", "template", "train"])
def test_conda_environments_have_the_pins_of_the_lock(repository, lock, kind):
    environment = yaml.safe_load((repository / "envs" / f"{kind}.yaml").read_text())
    packages = environment["dependencies"][-1]["pip"]
    found = pins(packages)
    assert len(found) == len(packages)
    assert {name: lock.get(name) for name in found} == found


def test_every_rule_has_its_environment_and_no_environment_is_unused(repository):
    rules = "".join(path.read_text() for path in (repository / "workflow" / "rules").glob("*.smk"))
    used = re.findall(r'"\.\./\.\./envs/(\w+)\.yaml"', rules)
    assert len(used) == len(re.findall(r"^rule ", rules, flags=re.MULTILINE))
    assert set(used) == {path.stem for path in (repository / "envs").glob("*.yaml")}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_is_written_from_the_settings_is_current(repository, name):
    assert (repository / name).read_text() == DOCUMENTS[name](), "run `make reference`"


def test_config_yaml_holds_the_defaults_and_nothing_else(repository):
    data = yaml.safe_load((repository / "config.yaml").read_text())
    assert read_section(Config, data) == Config()
    assert set(data) == set(Config.model_fields)


def settings_without_description(section: type[Section], where: str = "") -> list[str]:
    bare = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            bare += settings_without_description(field.annotation, f"{where}{name}.")
        elif not (field.description or "").strip():
            bare.append(f"{where}{name}")
    return bare


def test_every_setting_is_described():
    assert settings_without_description(Config) == []


def test_version_is_the_same_in_pyproject_and_citation(repository, project):
    citation = yaml.safe_load((repository / "CITATION.cff").read_text())
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"] == "Apache-2.0"


def test_what_the_snakefile_imports_is_light(repository):
    # Snakemake loads each plugin that is installed, whoever runs it, and SLURM's brings pandas.
    code = """
import pkgutil, sys
found = pkgutil.iter_modules
pkgutil.iter_modules = lambda *a, **k: (m for m in found(*a, **k) if "executor_plugin" not in m.name)
import workflow.planning
print(*sorted(sys.modules))
"""
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"numpy", "torch", "scipy", "jaxtyping", "trimesh"} & set(loaded)


def test_changelog_entries_have_a_known_kind(repository):
    names = [path.name for path in (repository / "changelog.d").iterdir() if path.name != "README.md"]
    assert [name for name in names if not re.fullmatch(r"\+[a-z0-9-]+\.(added|changed|fixed|removed)\.md", name)] == []
