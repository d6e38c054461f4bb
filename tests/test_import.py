"""Importing, packaging, and where the bundled models are found."""

from __future__ import annotations

import configparser
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

import avsync
from avsync import _paths
from avsync.errors import AVSyncError, MediaNotFoundError, ModelNotFoundError

HEAVY = {"torch", "mediapipe", "onnxruntime", "av", "cv2", "jax", "scipy", "pydantic", "numpy"}
LIGHT_MODULES = ["avsync", "avsync.errors", "avsync.result", "avsync.cli"]


def run_python(code: str) -> str:
    """Standard output of a new interpreter; away from the source tree, so that what is installed
    is what is imported."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=sys.prefix,
    ).stdout.strip()


def test_import_is_light() -> None:
    loaded = run_python("import avsync, sys; print(' '.join(sys.modules))").split()
    assert HEAVY.isdisjoint(loaded)


def test_import_is_quick() -> None:
    code = "import time; t = time.perf_counter(); import avsync; print(time.perf_counter() - t)"
    assert min(float(run_python(code)) for _ in range(3)) < 0.5


@pytest.mark.parametrize(
    "module",
    [
        *LIGHT_MODULES,
        "avsync.media",
        "avsync.faces",
        "avsync.crops",
        "avsync.mel",
        "avsync.runtime",
        "avsync.offsets",
        "avsync.detector",
    ],
)
def test_no_module_of_the_main_path_brings_a_framework_at_import(module: str) -> None:
    loaded = run_python(f"import {module}, sys; print(' '.join(sys.modules))").split()
    assert {"torch", "mediapipe", "onnxruntime"}.isdisjoint(loaded)


@pytest.mark.parametrize("name", avsync.__all__)
def test_every_public_name_loads(name: str) -> None:
    assert getattr(avsync, name) is not None
    assert name in dir(avsync)


def test_lazy_names_come_from_their_modules() -> None:
    from avsync.detector import SyncDetector
    from avsync.result import SyncResult

    assert avsync.SyncDetector is SyncDetector
    assert avsync.SyncResult is SyncResult
    assert avsync.AVSyncError is AVSyncError


def test_public_names_are_sorted_and_lazy_ones_are_public() -> None:
    assert avsync.__all__ == sorted(avsync.__all__)
    assert set(avsync._HOME_OF) | {"__version__"} == set(avsync.__all__)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'avsync' has no attribute 'nonsense'"):
        _ = avsync.nonsense
    assert not hasattr(avsync, "__path_of_nothing__")


def test_errors_are_also_builtins() -> None:
    assert issubclass(avsync.MediaNotFoundError, FileNotFoundError)
    assert issubclass(avsync.ModelNotFoundError, FileNotFoundError)
    assert issubclass(avsync.DependencyMissingError, ImportError)
    assert issubclass(avsync.MediaReadError, ValueError)
    assert issubclass(avsync.InvalidOptionError, ValueError)
    assert issubclass(avsync.ProviderUnavailableError, RuntimeError)


def test_version_is_the_installed_one() -> None:
    assert version("avsync") == avsync.__version__
    assert run_python("import avsync; print(avsync.__version__)") == avsync.__version__


def test_console_script_is_registered() -> None:
    (script,) = [e for e in entry_points(group="console_scripts") if e.name == "avsync"]
    assert script.value == "avsync.cli:main"


def test_every_package_is_listed_for_installation(root: Path) -> None:
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg", "utf-8")
    listed = set(setup["options"]["packages"].split())
    there = {
        ".".join(file.parent.relative_to(root).parts)
        for file in (root / "avsync").rglob("__init__.py")
    }
    assert listed == there | {"avsync._examples", "avsync._models"}


def test_package_is_marked_as_typed() -> None:
    assert Path(avsync.__file__).with_name("py.typed").is_file()


def test_bundled_models_are_installed(root: Path) -> None:
    folder = _paths.bundled_models_dir()
    wanted = {f.relative_to(root / "models") for f in (root / "models").rglob("*") if f.is_file()}
    wanted = {f for f in wanted if f.suffix in (".onnx", ".json", ".md")}
    missing = {str(f) for f in wanted if not (folder / f).is_file()}
    assert missing == set()


@pytest.mark.parametrize("place", ["pkg/avsync/_models", "pkg/models"])
def test_models_are_found_in_wheels_and_in_source_trees(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pkg/avsync").mkdir(parents=True)
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "__init__.py").touch()
    monkeypatch.setattr(_paths, "__file__", str(tmp_path / "pkg/avsync/_paths.py"))
    assert _paths.bundled_models_dir() == (tmp_path / place).resolve()


def test_the_sample_is_installed() -> None:
    code = "from avsync._paths import sample_video; print(sample_video().stat().st_size)"
    assert int(run_python(code)) > 100_000


def test_missing_models_are_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_paths, "__file__", str(tmp_path / "avsync/_paths.py"))
    with pytest.raises(ModelNotFoundError, match=r"models are missing: .* install avsync"):
        _paths.bundled_models_dir()
    with pytest.raises(MediaNotFoundError, match=r"examples are missing: .* install avsync"):
        _paths.sample_video()
