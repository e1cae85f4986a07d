"""Import paths are code: which of them may run."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automl_prune.errors import ConfigError, TrustError

if TYPE_CHECKING:
    from collections.abc import Callable

BUILT_IN = ("automl_prune.models", "torchvision.models", "torchvision.datasets", "timm")
"""Modules whose own functions and classes may always be called."""


def resolve(import_path: str, trusted: tuple[str, ...] = ()) -> Callable[..., Any]:
    """The function or class behind ``package.module:name``.

    What lies in :data:`BUILT_IN` may be called, if it was defined there: a path such as
    ``torchvision.models:resnet.torch.load`` leaves the package and is refused. Everything else
    needs its package (or a dotted prefix of the module) in ``trusted``; such modules are also
    looked for in the current folder.

    Args:
        import_path: ``package.module:name``; the name may have dots (``Class.method``).
        trusted: packages that the person at the keyboard allowed.

    Raises:
        TrustError: nobody allowed this package.
        ConfigError: no such module or name in it, or it cannot be called.
    """
    module_name, colon, attribute = import_path.partition(":")
    if not colon or not module_name or not attribute:
        raise ConfigError(
            f"import path {import_path!r}: write package.module:name, "
            "as in torchvision.models:resnet18"
        )
    allowed_by_person = _under(module_name, trusted)
    if not allowed_by_person and not _under(module_name, BUILT_IN):
        raise _refusal(import_path, module_name)
    if allowed_by_person:
        _look_in_current_folder(module_name)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"import path {import_path!r}: there is no module {error.name!r}; install it, or run "
            "from the folder that holds it"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"import path {import_path!r}: {module_name} has no {attribute!r}")
        found = getattr(found, part)
    home = getattr(found, "__module__", None) or ""
    if not allowed_by_person and not _under(home, (*BUILT_IN, *trusted)):
        raise _refusal(import_path, home or module_name)
    if not callable(found):
        raise ConfigError(
            f"import path {import_path!r}: found {type(found).__name__}, need a function or class"
        )
    return found  # type: ignore[no-any-return]


def _refusal(import_path: str, module_name: str) -> TrustError:
    package = module_name.partition(".")[0]
    return TrustError(
        f"{import_path!r} is code outside {', '.join(BUILT_IN)}; if you trust it, allow it with "
        f"--trust {package}"
    )


def _under(module_name: str, prefixes: tuple[str, ...]) -> bool:
    return any(module_name == p or module_name.startswith(f"{p}.") for p in prefixes)


def _look_in_current_folder(module_name: str) -> None:
    """Console scripts do not have the current folder on the path; a user's own module lives there.

    It is added at the end, so that it can never hide an installed package.
    """
    top, here = module_name.partition(".")[0], str(Path.cwd())
    if here in sys.path or "" in sys.path or importlib.util.find_spec(top) is not None:
        return
    if (Path(here) / f"{top}.py").is_file() or (Path(here) / top).is_dir():
        sys.path.append(here)
