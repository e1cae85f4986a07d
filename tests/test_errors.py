import inspect
import re

import pytest

from automl_prune import errors

CLASSES = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, errors.AutoMLPruneError)
]


@pytest.mark.parametrize("cls", CLASSES)
def test_the_tree_in_the_docstring_is_the_tree(cls):
    assert errors.__doc__ is not None
    line = re.search(rf"{cls.__name__}\b[^\n]*", errors.__doc__)
    assert line, f"{cls.__name__} is not drawn"
    builtin = re.search(r"\((\w+)\)", line.group())
    if builtin:
        assert builtin.group(1) in {base.__name__ for base in cls.__mro__}


def test_every_mistake_of_a_user_exits_with_2_and_a_failed_check_with_1():
    failed = [cls for cls in CLASSES if cls.exit_code != 2]
    assert failed == [errors.VerificationError]
    assert errors.VerificationError.exit_code == 1
