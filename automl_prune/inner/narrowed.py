"""A copy of the network that can be narrowed to any channels, and widened again.

It shares every tensor that is not narrowed with the full-size model. The others are gathered from
it, and scattered back: rows and columns that were not gathered keep every bit there.

Kernels are slow at odd widths. So a copy may hold more channels than are kept, up to a multiple:
*fillers*. What reads a filler has zeros there, so it changes nothing that is computed (as long as
it is finite, as in the masked form), and what becomes of its own weights is never scattered back.

Shape suffixes: U units, O a layer's output channels, I its input channels.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from automl_prune.graph.narrow import note_sizes, pad_sizes, shallow_copy, unit_mask
from automl_prune.inner.dropout import widen_dropouts
from automl_prune.inner.rounding import units_per_step

if TYPE_CHECKING:
    from collections.abc import Callable

    from automl_prune.graph import CouplingGraph, Layer
    from automl_prune.inner.dropout import WideDropout

WIDTH_MULTIPLE = 8
"""Channels are filled up to a multiple of it; docs/benchmarks.md has the times that it follows."""
HEAVY_LAYER = 100_000
"""MACs per layer and image, on average, from which on kernels cost more than their calls do."""


@dataclass(slots=True, kw_only=True, eq=False)
class Channels:
    """Channels as several layers have them, and which of them are held."""

    units: Tensor
    """(channels,) int64: unit of each."""
    keep: Tensor
    """(channels,) bool."""
    held_units: Tensor
    """Units of those that are held, fillers included."""
    held: Tensor | None = None
    """Their places; None if all channels are kept."""
    places: Tensor | None = None
    """The same without fillers."""
    kept: Tensor | None = None
    """Those that are no fillers, as places among the held ones; None if there are no fillers."""
    fillers: Tensor | None = None
    """The others."""

    @classmethod
    def all_of(cls, units: Tensor) -> Channels:
        """All are kept."""
        return cls(units=units, keep=torch.ones(len(units), dtype=torch.bool), held_units=units)

    def set(self, keep: Tensor, hold: Tensor, device: torch.device) -> None:
        """Keep some from now on.

        Args:
            keep: bool per unit, and True in the last place.
            hold: the same with fillers.
            device: of the places.
        """
        self.keep, self.held_units = keep[self.units], self.units
        self.held = self.places = self.kept = self.fillers = None
        if bool(self.keep.all()):
            return
        held = hold[self.units].nonzero().flatten()
        self.held_units = self.units[held]
        is_kept = self.keep[held]
        self.held = self.places = held.to(device)
        if not bool(is_kept.all()):
            self.places = held[is_kept].to(device)
            self.kept = is_kept.nonzero().flatten().to(device)
            self.fillers = (~is_kept).nonzero().flatten().to(device)


class NarrowedLayer:
    """One layer of the copy: which rows and columns of the full-size layer it holds.

    Args:
        layer: as the coupling graph sees it.
        full: the full-size module.
        own: the copy's module.
        momenta: of the full-size module's parameters, by their name in the module.
        channels: from units to channels, shared with other layers.
    """

    def __init__(
        self,
        layer: Layer,
        full: nn.Module,
        own: nn.Module,
        momenta: dict[str, Tensor],
        channels: Callable[[Tensor], Channels],
    ) -> None:
        self._layer, self.own = layer, own
        self.held_layer = layer
        """The layer as it is now: units of the channels that are held, fillers included."""
        self.consumes = layer.kind in ("conv", "linear") and bool((layer.in_units >= 0).any())
        """Whether a mask acts on its input channels."""
        self._full, self._full_momenta = full, momenta
        self.momenta = dict(momenta)
        """As the copy holds them."""
        self._inputs, self._outputs = channels(layer.in_units), channels(layer.out_units)
        self._rows, self._columns = self._outputs, channels(layer.in_units[:0])
        if layer.kind == "pad":
            self._rows, self._pads = self._columns, pad_sizes(full)
        elif layer.kind in ("conv", "linear"):
            self._columns = channels(layer.in_units.view(layer.groups, -1)[0])

    @property
    def is_narrowed(self) -> bool:
        """Whether any tensor is held in part only."""
        return self._rows.held is not None or self._columns.held is not None

    def has_any(self, channels: set[Channels]) -> bool:
        """Whether its inputs or outputs are among these."""
        return self._inputs in channels or self._outputs in channels

    def set_widths(self) -> None:
        """Take on the widths of its channels; tensors are those of before until :meth:`gather`."""
        layer, own = self._layer, self.own
        self.held_layer = dataclasses.replace(
            layer, out_units=self._outputs.held_units, in_units=self._inputs.held_units
        )
        inputs, outputs = len(self._inputs.held_units), len(self._outputs.held_units)
        if layer.kind == "pad":
            before, after = self._pads
            places = self._outputs.held
            if places is None:
                places = torch.arange(len(layer.out_units))
            own.pad_before = int((places < before).sum())  # type: ignore[assignment]
            own.pad_after = int((places >= len(layer.out_units) - after).sum())  # type: ignore[assignment]
        else:
            note_sizes(own, inputs, outputs, inputs if layer.kind == "depthwise" else layer.groups)

    def gather(self, *, with_state: bool) -> None:
        """Take parameters, and with the state also buffers and momenta, from the full module."""
        own, full = self.own, self._full
        for name, parameter in full._parameters.items():
            if parameter is None:
                continue
            taken = parameter
            if self._narrows(parameter):
                values = self._take(parameter.detach())
                taken = nn.Parameter(values, requires_grad=parameter.requires_grad and with_state)
            own._parameters[name] = taken
            if with_state and name in self._full_momenta:
                momentum = self._full_momenta[name]
                self.momenta[name] = self._take(momentum) if taken is not parameter else momentum
        if with_state:
            for name, buffer in full._buffers.items():
                if buffer is not None:
                    own._buffers[name] = self._take(buffer) if self._narrows(buffer) else buffer

    def silence_fillers(self) -> None:
        """Let the coming weight step leave at zero what reads fillers."""
        if self._columns.fillers is not None:
            gradient = self.own._parameters["weight"].grad  # type: ignore[union-attr]
            if gradient is not None:
                gradient.index_fill_(1, self._columns.fillers, 0.0)

    def silence_fillers_always(self) -> None:
        """The same at the end of every backward pass, for the parameters of the last gather."""
        if self._columns.fillers is not None:
            weight = self.own._parameters["weight"]
            assert weight is not None
            silence = weight.register_post_accumulate_grad_hook
            silence(lambda _: self.silence_fillers())  # type: ignore[no-untyped-call]

    def scatter(self) -> None:
        """Give parameters, buffers and momenta back to the full module."""
        for name, parameter in self._full._parameters.items():
            if parameter is None or not self._narrows(parameter):
                continue
            self._put(parameter, self.own._parameters[name])
            if name in self._full_momenta:
                self._put(self._full_momenta[name], self.momenta[name])
        for name, buffer in self._full._buffers.items():
            if buffer is not None and self._narrows(buffer):
                self._put(buffer, self.own._buffers[name])

    def _narrows(self, tensor: Tensor) -> bool:
        if tensor.dim() == 0:
            return False
        return self._rows.held is not None or (self._columns.held is not None and tensor.dim() > 1)

    def _take(self, tensor: Tensor) -> Tensor:
        taken = tensor
        if self._rows.held is not None:
            taken = taken.index_select(0, self._rows.held)
        if self._columns.held is not None and tensor.dim() > 1:
            taken = taken.index_select(1, self._columns.held)
            if self._columns.fillers is not None:
                taken.index_fill_(1, self._columns.fillers, 0.0)
        if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
            taken = taken.contiguous(memory_format=torch.channels_last)
        return taken

    def _put(self, target: Tensor, source: Tensor | None) -> None:
        assert source is not None
        rows, columns = self._rows, self._columns
        with torch.no_grad():
            if rows.kept is not None:
                source = source.index_select(0, rows.kept)
            if columns.kept is not None and target.dim() > 1:
                source = source.index_select(1, columns.kept)
            if columns.places is None or target.dim() == 1:
                assert rows.places is not None
                target.index_copy_(0, rows.places, source)
            elif rows.places is None:
                target.index_copy_(1, columns.places, source)
            else:
                target[rows.places[:, None], columns.places] = source


class NarrowedCopy:
    """A copy of a whole network, narrowed layer by layer.

    Args:
        model: the full-size model; its tensors are shared.
        graph: its coupling graph.
        momenta: a buffer per name of a trained parameter.
        width_multiple: channels of a group are filled up to a multiple of it.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: CouplingGraph,
        momenta: dict[str, Tensor],
        *,
        width_multiple: int = 1,
    ) -> None:
        self.model = shallow_copy(model)
        """Runs with the channels that are held."""
        self._device = next(model.parameters()).device
        self._channels: dict[tuple[int, ...], Channels] = {}
        self.layers = {
            name: NarrowedLayer(
                layer,
                model.get_submodule(name),
                self.model.get_submodule(name),
                {
                    own_name: momenta[f"{name}.{own_name}"]
                    for own_name, _ in model.get_submodule(name).named_parameters(recurse=False)
                    if f"{name}.{own_name}" in momenta
                },
                self._channels_of,
            )
            for name, layer in graph.layers.items()
        }
        in_layers = {f"{n}.{own}" for n, held in self.layers.items() for own in held.momenta}
        parameters = dict(model.named_parameters())
        self._elsewhere = [
            (parameters[name], momentum)
            for name, momentum in momenta.items()
            if name not in in_layers
        ]
        self._full, self._graph, self._width_multiple = model, graph, width_multiple
        self._dropouts: list[WideDropout] | None = None

    def draw_wide_dropouts(self, images_BCHW: Tensor) -> None:
        """Let dropouts draw as the full-size network does, as far as their place is known."""
        if self._dropouts is None:
            self._dropouts = widen_dropouts(self._full, self.model, self._graph, images_BCHW)

    def not_keeping(self, keep_U: Tensor) -> list[NarrowedLayer]:
        """Layers that keep other channels than those of these units."""
        changed = self._not_keeping(unit_mask(keep_U))
        return [held for held in self.layers.values() if held.has_any(changed)]

    def keep(self, keep_U: Tensor) -> None:
        """Set all widths to the units that are kept, and fillers.

        Tensors of the layers that :meth:`not_keeping` names are stale until they are gathered.
        """
        keep, hold = unit_mask(keep_U), unit_mask(self._with_fillers(keep_U))
        changed = self._not_keeping(keep)
        for channels in changed:
            channels.set(keep, hold, self._device)
        for held in self.layers.values():
            if held.has_any(changed):
                held.set_widths()
        for dropout in self._dropouts or []:
            dropout.hold(hold)

    def gather(self) -> None:
        """Take parameters, buffers and momenta of all narrowed layers from the full-size model."""
        for held in self.layers.values():
            if held.is_narrowed:
                held.gather(with_state=True)

    def scatter(self) -> None:
        """Give them back."""
        for held in self.layers.values():
            if held.is_narrowed:
                held.scatter()

    def silence_fillers(self) -> None:
        """After a backward pass, before the weight step."""
        for held in self.layers.values():
            held.silence_fillers()

    def silence_fillers_always(self) -> None:
        """The same at the end of every backward pass, for the parameters of the last gather."""
        for held in self.layers.values():
            held.silence_fillers_always()

    def trained(self) -> tuple[list[Tensor], list[Tensor]]:
        """Trained parameters and their momenta, as the copy holds them."""
        parameters: list[Tensor] = [parameter for parameter, _ in self._elsewhere]
        momenta = [momentum for _, momentum in self._elsewhere]
        for held in self.layers.values():
            for name, momentum in held.momenta.items():
                parameter = held.own._parameters[name]
                assert parameter is not None
                parameters.append(parameter)
                momenta.append(momentum)
        return parameters, momenta

    def _channels_of(self, units: Tensor) -> Channels:
        return self._channels.setdefault(tuple(units.tolist()), Channels.all_of(units))

    def _not_keeping(self, keep: Tensor) -> set[Channels]:
        # a layer has all units of a group or none, so its fillers follow from what it keeps
        return {
            channels
            for channels in self._channels.values()
            if not torch.equal(keep[channels.units], channels.keep)
        }

    def _with_fillers(self, keep_U: Tensor) -> Tensor:
        hold_U = keep_U.clone()
        for group in self._graph.groups:
            hold = hold_U[group.units]
            missing = -int(hold.sum()) % units_per_step(group, self._width_multiple)
            if missing:
                hold[(~hold).nonzero().flatten()[:missing]] = True
        return hold_U


def can_be_narrowed(model: nn.Module) -> bool:
    """Not where modules share a parameter: a copy cannot hold two narrowed ones of it."""
    owned = [p for m in model.modules() for p in m.parameters(recurse=False)]
    return len(owned) == len({id(p) for p in owned})


def mean_layer_macs(graph: CouplingGraph) -> float:
    """MACs per image of a full-size layer, on average over convolutions and linear layers."""
    layers = [layer for layer in graph.layers.values() if layer.kind in ("conv", "linear")]
    return sum(
        layer.positions * layer.kernel * len(layer.in_units) * len(layer.out_units) // layer.groups
        for layer in layers
    ) / len(layers)
