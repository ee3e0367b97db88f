"""What the code of a method of one's own does, as a number: the same name may stand for other code tomorrow."""

import hashlib
import sys
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

_MADE_IN_PYTHON = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def source_fingerprint(cls: type) -> str | None:
    """Hash of the compiled code of a class and of what it uses from its own modules.

    The same in a script, a notebook and a worker process; other comments or another layout do not
    change it, another version of Python may.

    Returns:
        16 hexadecimal digits; None for a class of the toolkit.
    """
    if not _by_user(cls):
        return None
    digest = hashlib.sha256()
    for part in sorted(_parts(cls, set())):
        digest.update(part.encode())
    return digest.hexdigest()[:16]


def _by_user(value: type | FunctionType) -> bool:
    # What exec() defines among names without __name__ has no module, or passes for a built-in.
    if isinstance(value, FunctionType) and value.__module__ is None:
        return True
    if isinstance(value, type) and value.__module__ == "builtins":
        return bool(value.__flags__ & _MADE_IN_PYTHON)
    return _is_own(value.__module__)


def _is_own(module: str | None) -> bool:
    package = (module or "").partition(".")[0]
    if not package or package in ("vlcl_toolkit", "builtins"):
        return False
    found = sys.modules.get(module or "")
    file = getattr(found, "__file__", None)  # none: a notebook
    return file is None or ("site-packages" not in file and package not in sys.stdlib_module_names)


def _parts(value: Any, seen: set[int]) -> list[str]:
    # Descriptions of a value and of all that it refers to in modules of its author.
    if id(value) in seen:
        return []
    seen.add(id(value))
    if isinstance(value, (staticmethod, classmethod)):
        return _parts(value.__func__, seen)
    if isinstance(value, property):
        return [part for each in (value.fget, value.fset) for part in _parts(each, seen)]
    if isinstance(value, type) and _by_user(value):
        found = [part for base in value.__bases__ for part in _parts(base, seen)]
        for name, entry in vars(value).items():
            if not name.startswith("__") or isinstance(entry, FunctionType):
                found += [f"{value.__qualname__}.{name}: {part}" for part in _parts(entry, seen)]
        return found
    if isinstance(value, FunctionType) and _by_user(value):
        found = [_code(value.__code__), repr(value.__defaults__), repr(value.__kwdefaults__)]
        for name in sorted(_names(value.__code__)):
            if name in value.__globals__:
                found += _parts(value.__globals__[name], seen)
        return found
    if isinstance(value, ModuleType) and _is_own(value.__name__):
        file = getattr(value, "__file__", None)  # none: built in, or a namespace
        return [Path(file).read_text(encoding="utf-8")] if file and file.endswith(".py") else []
    if isinstance(value, (tuple, list)):
        return [part for each in value for part in _parts(each, seen)]
    return [repr(value)] if isinstance(value, _PLAIN) else []


def _code(code: CodeType) -> str:
    constants = [_constant(value) for value in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {constants}"


def _constant(value: Any) -> str:
    if isinstance(value, CodeType):
        return _code(value)
    return str(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _names(code: CodeType) -> set[str]:
    inner = [_names(c) for c in code.co_consts if isinstance(c, CodeType)]
    return set(code.co_names).union(*inner)
