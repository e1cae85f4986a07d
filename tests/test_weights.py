import pytest
import torch
from torch import nn

from automl_prune.errors import ModelError
from automl_prune.weights import weights_digest, weights_from_bytes, weights_to_bytes


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def test_bytes_bring_every_tensor_back(net):
    net = net.to(memory_format=torch.channels_last)
    state = weights_from_bytes(weights_to_bytes(net), origin="here")
    assert state.keys() == net.state_dict().keys()
    for name, tensor in net.state_dict().items():
        assert torch.equal(state[name], tensor)
        assert state[name].dtype == tensor.dtype


def test_shared_weights_are_written_under_both_names():
    layer = nn.Linear(3, 3)
    state = weights_from_bytes(weights_to_bytes(nn.Sequential(layer, layer)), origin="here")
    assert set(state) == {"0.weight", "0.bias", "1.weight", "1.bias"}


def test_digest_sees_values_names_and_types_but_not_layout(net):
    digest = weights_digest(net)
    assert weights_digest(net.to(memory_format=torch.channels_last)) == digest
    assert weights_digest(nn.Sequential(nn.Identity(), *net)) != digest
    assert weights_digest(net.double()) != digest
    net = net.float()
    assert weights_digest(net) == digest
    with torch.no_grad():
        net[1].running_mean[2] += 1e-6
    assert weights_digest(net) != digest


def test_cut_bytes_are_refused(net):
    with pytest.raises(ModelError, match=r"here is not a whole safetensors file"):
        weights_from_bytes(weights_to_bytes(net)[:-10], origin="here")


def test_state_that_needs_pickle_is_refused():
    class Odd(nn.Module):
        def get_extra_state(self):
            return {"anything": 1}

        def set_extra_state(self, state):
            pass

    with pytest.raises(ModelError, match="_extra_state"):
        weights_to_bytes(Odd())
