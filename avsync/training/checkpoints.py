"""Published checkpoints: read without running any code in them, load strictly.

A checkpoint is a ``state_dict`` saved by torch: bare, or under "state_dict" beside other plain
values, with or without "module." before each name. The architecture can be told from its names
and shapes.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from avsync.errors import InvalidOptionError, ModelCorruptError, ModelNotFoundError
from avsync.training.networks import VocaLiST
from avsync.training.syncnet import SyncNet

__all__ = ["ARCHITECTURES", "Architecture", "build", "load_network", "read_state_dict"]

Architecture = Literal["vocalist", "mtdvocalist", "syncnet"]

ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "vocalist": VocaLiST.teacher,
    "mtdvocalist": VocaLiST.student,
    "syncnet": SyncNet,
}


def build(arch: str) -> nn.Module:
    """The network of a published architecture with random weights.

    Raises:
        InvalidOptionError: no such architecture.
    """
    if arch not in ARCHITECTURES:
        raise InvalidOptionError(f"architecture {arch!r}: choose from {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[arch]()


def read_state_dict(path: str | PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU, in the file's order, without "module.".

    Nothing in the file is executed: it is read with ``weights_only=True``.

    Raises:
        ModelNotFoundError: no such file.
        ModelCorruptError: not a torch file, a file that needs unpickling of code, or one without
            a state_dict.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelNotFoundError(f"{file}: no such checkpoint file")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelCorruptError(f"{file}: {_refusal(str(error))}") from error
    except (EOFError, RuntimeError, ValueError, KeyError, IndexError, AttributeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ModelCorruptError(
            f"{file}: not a torch checkpoint, or cut short ({reason})"
        ) from error
    return _tensors(content, file)


def _refusal(message: str) -> str:
    """Why torch's restricted unpickler stopped, without its advice to read the file in full."""
    if "Unsupported operand" in message:
        return "not a torch checkpoint"
    found = re.search(r"GLOBAL ([\w.]+)", message)
    return (
        "holds more than tensors and plain values"
        + (f" ({found[1]})" if found else "")
        + "; reading it would mean running code from the file, which is refused. Where you trust "
        "it, save its state_dict alone with torch.save(model.state_dict(), path) and use that."
    )


def _tensors(content: object, file: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise ModelCorruptError(f"{file}: a checkpoint must hold a state_dict")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelCorruptError(
                f"{file}: no state_dict: entry {name!r} is a {type(value).__name__}, not a tensor"
            )
    wrapped = all(name.startswith("module.") for name in content)
    return {name.removeprefix("module.") if wrapped else name: t for name, t in content.items()}


def _differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    def named(names: list[str]) -> str:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return ", ".join(names[:3]) + more

    out = []
    if missing := [name for name in expected if name not in found]:
        out.append(f"missing {named(missing)}")
    if unknown := [name for name in found if name not in expected]:
        out.append(f"unexpected {named(unknown)}")
    shapes = [
        f"{name} is {tuple(found[name].shape)}, not {tuple(expected[name].shape)}"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    if shapes:
        out.append(named(shapes))
    return out


def _recognise(state: Mapping[str, Tensor], file: Path) -> str:
    for arch, make in ARCHITECTURES.items():
        with torch.device("meta"):
            expected = make().state_dict()
        if not _differences(expected, state):
            return arch
    raise ModelCorruptError(
        f"{file}: the weights are of none of {', '.join(ARCHITECTURES)}; name the architecture "
        "to see what differs"
    )


def load_network(path: str | PathLike[str], arch: str | None = None) -> tuple[str, nn.Module]:
    """The network of a checkpoint in eval mode, and its architecture's name.

    arch: a name of :data:`ARCHITECTURES`, or None to tell it from names and shapes.
    Every name must be there with its shape, none more, and every weight finite.

    Raises:
        InvalidOptionError: no such architecture.
        ModelNotFoundError, ModelCorruptError: see :func:`read_state_dict`; also when the weights
            are not those of the architecture, with what is missing, unexpected or misshapen.
    """
    if arch is not None and arch not in ARCHITECTURES:
        build(arch)  # says which there are
    file = Path(path)
    state = read_state_dict(file)
    name = arch if arch is not None else _recognise(state, file)
    network = build(name)
    if differences := _differences(network.state_dict(), state):
        raise ModelCorruptError(f"{file}: not the weights of {name}: {'; '.join(differences)}")
    broken = [key for key, t in state.items() if not torch.isfinite(t).all()]
    if broken:
        raise ModelCorruptError(f"{file}: {broken[0]} holds NaN or infinity")
    network.load_state_dict(state, strict=True)
    return name, network.eval()
