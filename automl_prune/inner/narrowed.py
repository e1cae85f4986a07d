"""A copy of the network that can be narrowed to any channels, and widened again.

It shares every tensor that is not narrowed with the full-size model. The others are gathered from
it, and scattered back: rows and columns that were not gathered keep every bit there.

Shape suffixes: U units, O a layer's output channels, I its input channels.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import nn

from automl_prune.graph.narrow import shallow_copy, unit_mask
from automl_prune.inner.dropout import widen_dropouts

if TYPE_CHECKING:
    from torch import Tensor

    from automl_prune.graph import CouplingGraph, Layer
    from automl_prune.inner.dropout import WideDropout


class NarrowedLayer:
    """One layer of the copy: which rows and columns of the full-size layer it holds.

    Args:
        layer: as the coupling graph sees it.
        full: the full-size module.
        own: the copy's module.
        momenta: of the full-size module's parameters, by their name in the module.
    """

    def __init__(
        self, layer: Layer, full: nn.Module, own: nn.Module, momenta: dict[str, Tensor]
    ) -> None:
        self.layer, self.own = layer, own
        self.held_layer = layer
        """The layer as it is now: units of the channels that are held."""
        self.consumes = layer.kind in ("conv", "linear") and bool((layer.in_units >= 0).any())
        """Whether a mask acts on its input channels."""
        self._full, self._full_momenta = full, momenta
        self.momenta = dict(momenta)
        """As the copy holds them."""
        self._keep_O = torch.ones(len(layer.out_units), dtype=torch.bool)
        self._keep_I = torch.ones(len(layer.in_units), dtype=torch.bool)
        self._rows: Tensor | None = None
        self._columns: Tensor | None = None
        if layer.kind == "pad":
            self._pads = (int(full.pad_before), int(full.pad_after))  # type: ignore[arg-type]

    @property
    def is_narrowed(self) -> bool:
        """Whether any tensor is held in part only."""
        return self._rows is not None or self._columns is not None

    def holds(self, keep: Tensor) -> bool:
        """Whether it holds exactly these units (bool per unit, and True in the last place)."""
        return torch.equal(keep[self.layer.out_units], self._keep_O) and torch.equal(
            keep[self.layer.in_units], self._keep_I
        )

    def set_widths(self, keep: Tensor, device: torch.device) -> None:
        """Hold these units from now on; tensors are those of before until :meth:`gather`."""
        layer, own = self.layer, self.own
        self._keep_O, self._keep_I = keep[layer.out_units], keep[layer.in_units]
        self.held_layer = dataclasses.replace(
            layer,
            out_units=layer.out_units[self._keep_O],
            in_units=layer.in_units[self._keep_I],
        )
        inputs, outputs = int(self._keep_I.sum()), int(self._keep_O.sum())
        if layer.kind == "pad":
            before, after = self._pads
            own.pad_before = int(self._keep_O[:before].sum())  # type: ignore[assignment]
            own.pad_after = int(self._keep_O[len(self._keep_O) - after :].sum())  # type: ignore[assignment]
            return
        keep_columns = torch.ones(1, dtype=torch.bool)
        if isinstance(own, nn.modules.conv._ConvNd):
            own.in_channels, own.out_channels = inputs, outputs
            own.groups = inputs if layer.kind == "depthwise" else layer.groups
        elif isinstance(own, nn.Linear):
            own.in_features, own.out_features = inputs, outputs
        else:
            assert isinstance(own, nn.modules.batchnorm._BatchNorm), type(own)
            own.num_features = outputs
        if layer.kind in ("conv", "linear"):
            keep_columns = self._keep_I.view(layer.groups, -1)[0]
        self._rows, self._columns = _places(self._keep_O, device), _places(keep_columns, device)

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
        return self._rows is not None or (self._columns is not None and tensor.dim() > 1)

    def _take(self, tensor: Tensor) -> Tensor:
        taken = tensor
        if self._rows is not None:
            taken = taken.index_select(0, self._rows)
        if self._columns is not None and tensor.dim() > 1:
            taken = taken.index_select(1, self._columns)
        if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
            taken = taken.contiguous(memory_format=torch.channels_last)
        return taken

    def _put(self, target: Tensor, source: Tensor | None) -> None:
        assert source is not None
        with torch.no_grad():
            if self._columns is None or target.dim() == 1:
                assert self._rows is not None
                target.index_copy_(0, self._rows, source)
            elif self._rows is None:
                target.index_copy_(1, self._columns, source)
            else:
                target[self._rows[:, None], self._columns] = source


class NarrowedCopy:
    """A copy of a whole network, narrowed layer by layer.

    Args:
        model: the full-size model; its tensors are shared.
        graph: its coupling graph.
        momenta: a buffer per name of a trained parameter.
    """

    def __init__(self, model: nn.Module, graph: CouplingGraph, momenta: dict[str, Tensor]) -> None:
        self.model = shallow_copy(model)
        """Runs with the channels that are held."""
        self._device = next(model.parameters()).device
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
        self._full, self._graph = model, graph
        self._dropouts: list[WideDropout] | None = None

    def draw_wide_dropouts(self, images_BCHW: Tensor) -> None:
        """Let dropouts draw as the full-size network does, as far as their place is known."""
        if self._dropouts is None:
            self._dropouts = widen_dropouts(self._full, self.model, self._graph, images_BCHW)

    def not_holding(self, keep_U: Tensor) -> list[NarrowedLayer]:
        """Layers that hold other channels than those of these units."""
        keep = unit_mask(keep_U)
        return [held for held in self.layers.values() if not held.holds(keep)]

    def hold(self, layers: list[NarrowedLayer], keep_U: Tensor) -> None:
        """Set the widths of some layers to the units that are kept."""
        keep = unit_mask(keep_U)
        for held in layers:
            held.set_widths(keep, self._device)
        for dropout in self._dropouts or []:
            dropout.hold(keep)

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


def _places(keep: Tensor, device: torch.device) -> Tensor | None:
    return None if bool(keep.all()) else keep.nonzero().flatten().to(device)
