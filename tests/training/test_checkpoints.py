"""Published checkpoints load in every wrapping they come in; others are refused with a reason."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from avsync.errors import InvalidOptionError, ModelCorruptError, ModelNotFoundError  # noqa: E402
from avsync.training.checkpoints import load_network, read_state_dict  # noqa: E402


def prefixed(state: dict[str, Any]) -> dict[str, Any]:
    return {f"module.{name}": t for name, t in state.items()}


WRAPPINGS = {
    "bare": lambda s: OrderedDict(s),
    "module": prefixed,
    "state_dict": lambda s: {
        "state_dict": s,
        "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 5e-5}]},
        "global_step": 7,
    },
    "state_dict+module": lambda s: {"state_dict": prefixed(s), "global_epoch": 2},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_published_wrappings_load_strictly(
    wrapping: str, tmp_path: Path, golden_state: Any, golden_network: Any, golden_inputs: Any
) -> None:
    file = tmp_path / "net.pth"
    torch.save(WRAPPINGS[wrapping](golden_state("mtdvocalist")), file)
    arch, network = load_network(file, "mtdvocalist")
    assert arch == "mtdvocalist"
    assert not network.training
    expected = golden_network("mtdvocalist").state_dict()
    assert list(network.state_dict()) == list(expected)
    assert all(torch.equal(t, expected[name]) for name, t in network.state_dict().items())


@pytest.mark.parametrize("arch", ["vocalist", "mtdvocalist", "syncnet"])
def test_architecture_is_recognised(arch: str, tmp_path: Path, golden_state: Any) -> None:
    file = tmp_path / "net.pth"
    torch.save(golden_state(arch), file)
    assert load_network(file)[0] == arch


def test_zip_and_legacy_formats(tmp_path: Path) -> None:
    state = {"weight": torch.arange(3.0)}
    for name, new in (("new.pth", True), ("old.pth", False)):
        torch.save(state, tmp_path / name, _use_new_zipfile_serialization=new)
        assert torch.equal(read_state_dict(tmp_path / name)["weight"], state["weight"])


def test_module_is_stripped_only_where_all_names_have_it(tmp_path: Path) -> None:
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "net.pth")
    assert list(read_state_dict(tmp_path / "net.pth")) == ["module.a", "b"]


class Trap:
    """Unpickling this would run a command."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        code = f"open({str(self.file)!r}, 'w')"
        return subprocess.call, ([sys.executable, "-c", code],)


def test_code_is_refused_and_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    for name, zipped in (("zip.pth", True), ("old.pth", False)):
        torch.save(
            {"state_dict": Trap(trap)}, tmp_path / name, _use_new_zipfile_serialization=zipped
        )
        with pytest.raises(ModelCorruptError, match="running code"):
            load_network(tmp_path / name)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Trap(trap), protocol=2))
    with pytest.raises(ModelCorruptError, match="running code"):
        load_network(tmp_path / "plain.pkl")
    assert not trap.exists()


def test_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "net.pth")
    with pytest.raises(ModelCorruptError, match=r"torch\.nn\.modules\.linear\.Linear.*state_dict"):
        load_network(tmp_path / "net.pth")


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint\n", b"PK\x03\x04broken", b"\x80\x02broken", b"\x00" * 64]
)
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(ModelCorruptError, match=r"net\.pth"):
        load_network(tmp_path / "net.pth")


def test_cut_file_is_refused(tmp_path: Path, golden_state: Any) -> None:
    file = tmp_path / "net.pth"
    torch.save(golden_state("mtdvocalist"), file)
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelCorruptError):
        load_network(file)


@pytest.mark.parametrize("content", [{}, [1, 2], {"epoch": 3}, torch.zeros(2), {1: torch.zeros(1)}])
def test_no_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(ModelCorruptError, match="state_dict"):
        read_state_dict(tmp_path / "net.pth")


def test_missing_file_is_a_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"absent\.pth"):
        load_network(tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError):
        load_network(tmp_path)


def test_unknown_architecture(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="vocalist, mtdvocalist, syncnet"):
        load_network(tmp_path / "net.pth", "lipnet")


def test_what_differs_is_named(tmp_path: Path, golden_state: Any) -> None:
    file = tmp_path / "net.pth"
    state = golden_state("mtdvocalist")
    del state["fc.bias"]
    state["extra.weight"] = torch.zeros(1)
    state["classifier.weight"] = torch.zeros(1, 512)
    torch.save(state, file)
    with pytest.raises(ModelCorruptError) as caught:
        load_network(file, "mtdvocalist")
    for words in ("missing fc.bias", "unexpected extra.weight", "is (1, 512), not (1, 200)"):
        assert words in str(caught.value)
    with pytest.raises(ModelCorruptError, match="none of"):
        load_network(file)


def test_not_a_number_is_refused(tmp_path: Path, golden_state: Any) -> None:
    state = golden_state("mtdvocalist")
    state["fc.bias"] = state["fc.bias"].clone()
    state["fc.bias"][3] = float("nan")
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(ModelCorruptError, match=r"fc\.bias holds NaN"):
        load_network(tmp_path / "net.pth")
