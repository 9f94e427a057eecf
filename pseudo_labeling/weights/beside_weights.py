"""What training files keep beside the weights: stand-ins for its classes, so that the weights can be read without it.

A training file holds the weights together with NumPy numbers, arguments, optimizers and data sets. `torch.load` with
`weights_only=True` refuses a file that names any class it does not know. Here each such class gets a stand-in of our
own that keeps nothing and does nothing: what a file names is neither imported nor called. Where only an attack would
need a name (the standard library's functions, torch's loaders), the file is refused as before.
"""

from __future__ import annotations

import _compat_pickle
import pickletools
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from dataset_conversion.errors import UserError

# of the standard library, whose functions could do anything: these hold data
DATA_CLASSES = {
    "argparse": ("Namespace",),
    "builtins": (
        "bool",
        "bytes",
        "dict",
        "float",
        "frozenset",
        "int",
        "list",
        "object",
        "range",
        "slice",
        "str",
        "tuple",
    ),
    "collections": ("defaultdict", "deque"),
    "datetime": ("date", "datetime", "timedelta", "timezone"),
    "functools": ("partial",),
    "pathlib": ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"),
    "pathlib._local": ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"),
    "types": ("SimpleNamespace",),
}
DATA_MODULES = ("torch.amp.", "torch.cuda.amp.", "torch.nn.modules.", "torch.optim.", "torch.utils.data.")


class StandIn:
    """An object of a class that is not here and not wanted."""

    __slots__ = ()

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Forget it."""


class _PlainDict(StandIn):
    """Where entries follow, torch's reader wants a real dict."""

    __slots__ = ()

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return {}


def stand_ins(path: Path) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Stand-ins for what a file of `torch.save` names and torch does not know, to be declared safe while it is read.

    A file that is damaged gives none: reading it will say so.
    """
    with suppress(Exception):  # there are as many errors as ways to damage a pickle
        return [_stand_in(module, name) for module, name in sorted(set(_names(path))) if _holds_data(module, name)]
    return []


def refusal(path: Path, code: str) -> UserError:
    """The error for a file that would have us run something."""
    return UserError(f"{path}: holds pickled code ({code}), which is never run; save model.state_dict() alone")


def class_name(stand_in: Any) -> str:
    """Whose place a class of :func:`stand_ins` takes."""
    return f"{stand_in.__module__}.{stand_in.__qualname__}"


def _names(path: Path) -> Iterator[tuple[str, str]]:
    """Modules and names in the pickles of a file; nothing is unpickled."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            member = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            operations = list(pickletools.genops(archive.read(member)))
    else:  # torch's older format has a magic number, a version and facts about the system before the content
        with path.open("rb") as file:
            operations = [operation for _ in range(4) for operation in pickletools.genops(file)]
    for code, argument, _ in operations:
        if code.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            # names of Python 2, as pickles of protocol 2 have them
            module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
            yield _compat_pickle.IMPORT_MAPPING.get(module, module), name


def _holds_data(module: str, name: str) -> bool:
    package = module.partition(".")[0]
    if package == "torch":
        return f"{module}.".startswith(DATA_MODULES)
    return name in DATA_CLASSES.get(module, ()) or package not in sys.stdlib_module_names


def _stand_in(module: str, name: str) -> type[StandIn]:
    base = _PlainDict if (module, name) == ("collections", "defaultdict") else StandIn
    return type(name, (base,), {"__module__": module, "__qualname__": name, "__slots__": ()})
