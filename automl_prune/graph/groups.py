"""The coupling graph: which channels must live or die together, and which cannot go at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LayerKind = Literal["conv", "depthwise", "linear", "norm", "pad"]
FIXED = -1
"""Unit index of a channel that is always kept."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """One module of the network, seen as channels.

    A *unit* is the smallest thing that can be removed: one class of coupled channels. Units are
    numbered through the whole network, 0..U-1; ``FIXED`` (-1) marks a channel that always stays.
    A mask vector over units with a trailing 1 therefore indexes directly:
    ``cat([mask_U, ones(1)])[layer.out_units]``.
    """

    name: str
    """Module path."""
    kind: LayerKind
    out_units: Tensor
    """(out channels,) int64: unit of each output channel."""
    in_units: Tensor
    """(in channels,) int64: unit of each input channel (consumers: conv, linear); for
    depthwise, norm and pad, which pass their ids on, the units of their own input."""
    groups: int
    """Groups of a convolution, else 1."""
    positions: int
    """Output positions of one forward pass at batch 1, summed over calls."""
    kernel: int
    """Kernel elements of a convolution, else 1."""

    def to(self, device: torch.device) -> Layer:
        """With its units on a device, so that a mask there can be indexed without waiting."""
        out_units, in_units = self.out_units.to(device), self.in_units.to(device)
        return replace(self, out_units=out_units, in_units=in_units)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Units that share one keep ratio: same layers, same roles, same counts."""

    name: str
    """Name of the first layer (in order of execution) that produces its channels."""
    first_unit: int
    num_units: int
    """C; units first_unit .. first_unit + C - 1 belong to this group."""
    layers: tuple[str, ...]
    """Every layer that loses output channels with this group, in order of execution."""
    channels_per_unit: int
    """Channels of the first layer in one unit."""

    @property
    def units(self) -> slice:
        """Where the group's units lie in a vector over all units."""
        return slice(self.first_unit, self.first_unit + self.num_units)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """Channels of one layer that cannot be removed, with the reason."""

    layer: str
    channels: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CouplingGraph:
    """Groups, layers and what is fixed, of one model at one input shape."""

    groups: tuple[Group, ...]
    layers: dict[str, Layer]
    fixed: tuple[Fixed, ...]
    num_units: int
    """U, over all groups."""
    constant_macs: int = 0
    """MACs of one forward pass at batch 1 that no group changes and no layer here accounts for,
    such as a transposed convolution."""
