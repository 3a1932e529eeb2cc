"""What is shipped, and who may import whom."""

import ast
import configparser
import importlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("perfused", "libperfuse", "wire")
HATCHLING = pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling is not installed")

#: All that wire may import beside itself and construct: modules of the standard library that hold data and do no I/O.
DATA_MODULES = {
    "__future__", "collections", "dataclasses", "enum", "errno", "json", "struct", "textwrap", "types", "typing",
}  # fmt: skip


def imports(path: Path) -> set[str]:
    """Top-level names of all modules that a file imports, wherever in it it does so."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {each.name.split(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def importers(paths: list[Path], *names: str) -> list[str]:
    """Those of `paths` that import one of `names`."""
    return [str(path.relative_to(ROOT)) for path in paths if imports(path) & set(names)]


# -- who may import whom -----------------------------------------------------------------------------------------------


def test_wire_imports_data_modules_and_construct_alone() -> None:
    found = set().union(*(imports(path) for path in files("wire"))) - {"wire", "construct"}
    assert found <= DATA_MODULES


def test_libperfuse_never_imports_the_daemon() -> None:
    assert importers(files("libperfuse"), "perfused") == []


def test_the_daemon_never_imports_the_filesystems_library() -> None:
    outside = [path for path in files("perfused") if "cli" not in path.parts]
    assert importers(outside, "libperfuse") == []


def test_only_wire_imports_construct() -> None:
    assert importers(files("perfused") + files("libperfuse"), "construct") == []


def test_only_command_lines_import_what_draws_on_terminals() -> None:
    outside = [path for path in files("perfused") if "cli" not in path.parts]
    assert importers(outside + files("libperfuse") + files("wire"), "click", "rich") == []


def test_importing_the_filesystems_library_starts_nothing_of_the_daemons() -> None:
    script = "import sys, libperfuse; print([m for m in sys.modules if m.split('.')[0] == 'perfused'])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# -- generated files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["perfused", "libperfuse"])
def test_the_generated_binding_is_what_its_declarations_give(package: str, tmp_path: Path) -> None:
    ffi = importlib.import_module(f"{package}.libc_build").build()
    ffi.emit_python_code(str(tmp_path / "_libc_cffi.py"))
    assert (tmp_path / "_libc_cffi.py").read_text() == (ROOT / package / "_libc_cffi.py").read_text()


# -- the wheel ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel of this tree."""
    where = tmp_path_factory.mktemp("wheel")
    script = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", script, str(where)], cwd=ROOT, capture_output=True, check=True)
    (made,) = where.glob("*.whl")
    with zipfile.ZipFile(made) as archive:
        yield archive


@HATCHLING
def test_the_wheel_has_the_three_packages_and_its_metadata_at_its_top(wheel: zipfile.ZipFile) -> None:
    name = "-".join(Path(wheel.filename or "").name.split("-")[:2])
    tops = {each.split("/")[0] for each in wheel.namelist()}
    assert tops - {f"{name}.data"} == {*PACKAGES, f"{name}.dist-info"}


@HATCHLING
def test_beside_the_packages_the_wheel_has_man_pages_alone(wheel: zipfile.ZipFile) -> None:
    shared = [name.split(".data/", 1)[1] for name in wheel.namelist() if ".data/" in name]
    assert [name for name in shared if not name.startswith("data/share/man/man")] == []


@HATCHLING
@pytest.mark.parametrize("package", PACKAGES)
def test_the_wheel_has_every_module_of_a_package(wheel: zipfile.ZipFile, package: str) -> None:
    there = {name for name in wheel.namelist() if name.startswith(f"{package}/") and name.endswith(".py")}
    assert there == {str(path.relative_to(ROOT)) for path in files(package)}


@HATCHLING
def test_the_wheel_has_no_generated_bytecode_and_nothing_built(wheel: zipfile.ZipFile) -> None:
    assert [name for name in wheel.namelist() if name.endswith((".pyc", ".so", ".o", ".a"))] == []


@HATCHLING
def test_the_wheel_installs_every_command(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("/entry_points.txt"))
    parser = configparser.ConfigParser()
    parser.read_string(wheel.read(name).decode())
    assert dict(parser["console_scripts"]) == {
        "perfused": "perfused.cli.daemon:main",
        "perfusectl": "perfused.cli.control:main",
        "perfuse-fusermount3": "libperfuse.fusermount:main",
    }


@HATCHLING
def test_the_wheel_offers_the_plugin_to_pytest(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("/entry_points.txt"))
    parser = configparser.ConfigParser()
    parser.read_string(wheel.read(name).decode())
    assert dict(parser["pytest11"]) == {"perfused": "perfused.conformance.plugin"}


def test_the_plugin_that_pytest_always_imports_imports_nothing_else_of_ours() -> None:
    script = "import sys, pytest; import perfused.conformance.plugin; print(*sorted(m for m in sys.modules"
    script += " if m.split('.')[0] in ('perfused', 'libperfuse', 'wire', 'construct', 'cffi', 'click', 'rich')))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["perfused", "perfused.conformance", "perfused.conformance.plugin"]


@pytest.mark.parametrize("module", ["perfused.cli.daemon", "perfused.cli.control", "libperfuse.fusermount"])
def test_a_command_is_there_to_be_called(module: str) -> None:
    assert callable(importlib.import_module(module).main)
