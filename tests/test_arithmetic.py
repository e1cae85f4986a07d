from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from automl_prune.arithmetic import fast_arithmetic, set_precision

if TYPE_CHECKING:
    from collections.abc import Iterator

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _default_afterwards() -> Iterator[None]:
    yield
    set_precision("auto")


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)],
)
def test_passes_on_the_cpu_are_computed_as_chosen(precision: str, expected: torch.dtype) -> None:
    set_precision(precision)  # type: ignore[arg-type]
    layer = torch.nn.Linear(4, 3)
    with fast_arithmetic(CPU):
        outputs = layer(torch.ones(2, 4))
    assert outputs.dtype == expected
    outputs.float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
