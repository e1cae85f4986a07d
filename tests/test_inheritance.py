import dataclasses

import pytest
import torch

from automl_prune.errors import EnvironmentProblemError
from automl_prune.inheritance import Inheritance
from automl_prune.mask import masked_forward
from automl_prune.models import resnet20
from automl_prune.records import Parent
from automl_prune.trial import run_trial
from automl_prune.weights import weights_to_bytes


@pytest.fixture(scope="module")
def inherited(tiny_bench, tiny_outcome):
    parent = Parent(
        number=3,
        weights_digest=tiny_outcome.record.weights_digest,
        steps=tiny_outcome.record.steps_of_line,
    )
    weights = weights_to_bytes(tiny_outcome.model)
    return Inheritance.of(parent, weights, tiny_outcome.curves.kept, tiny_bench.graph)


def images(bench):
    return next(iter(bench.data.in_order("search", batch_size=32, device="cpu")))[0]


def test_what_was_kept_is_read_back(inherited, tiny_outcome):
    assert torch.equal(inherited.keep_U, tiny_outcome.keep_U)


def test_masked_to_the_parents_units_the_widened_model_is_the_parent(
    inherited, tiny_bench, tiny_outcome
):
    images_BCHW = images(tiny_bench)
    full = inherited.widened(tiny_bench.dense, tiny_bench.graph).eval()
    with torch.no_grad():
        found = masked_forward(full, tiny_bench.graph, inherited.keep_U, images_BCHW)
        expected = tiny_outcome.model(images_BCHW)
        dense = masked_forward(tiny_bench.dense, tiny_bench.graph, inherited.keep_U, images_BCHW)
    assert float((dense - expected).abs().max()) > 1e-2, "the parent was trained"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_what_the_parent_lost_is_dense_still(inherited, tiny_bench):
    full = inherited.widened(tiny_bench.dense, tiny_bench.graph)
    keep = torch.cat([inherited.keep_U, torch.ones(1, dtype=torch.bool)])
    lost = 0
    for name, layer in tiny_bench.graph.layers.items():
        rows = ~keep[layer.out_units]
        lost += int(rows.sum())
        weight, dense = (m.get_submodule(name).weight for m in (full, tiny_bench.dense))
        assert torch.equal(weight[rows], dense[rows]), name
        assert not torch.equal(weight[~rows], dense[~rows]), name
    assert lost > 0


def test_other_weights_than_the_proposal_names_are_refused(inherited, tiny_bench):
    wrong = dataclasses.replace(
        inherited, parent=dataclasses.replace(inherited.parent, weights_digest="0" * 64)
    )
    with pytest.raises(EnvironmentProblemError, match=r"trial 3 have digest .* restore"):
        wrong.widened(tiny_bench.dense, tiny_bench.graph)


def test_a_trial_goes_on_from_its_parent_and_says_so(inherited, tiny_bench, tiny_outcome):
    def child():
        start = dict.fromkeys(tiny_outcome.record.final_ratios, 0.5)
        return run_trial(tiny_bench, start, 2.0, kind="search", seed=12, inherited=inherited)

    one, again = child().record, child().record
    assert one.deterministic() == again.deterministic()
    assert one.parent == inherited.parent
    assert one.steps_of_line == inherited.parent.steps + 12 + 6 + 12


def test_padded_shortcuts_widen_to_the_parent_too():
    torch.manual_seed(0)
    from automl_prune.graph import trace_coupling
    from automl_prune.prune import prune_model
    from automl_prune.weights import weights_digest

    dense = resnet20(width=0.5).eval()
    graph = trace_coupling(dense, (3, 16, 16))
    keep_U = torch.rand(graph.num_units) < 0.6
    for group in graph.groups:
        keep_U[group.first_unit] = True
    other = resnet20(width=0.5).eval()
    pruned = prune_model(other, graph, keep_U)
    kept = {g.name: keep_U[g.units].nonzero().flatten().tolist() for g in graph.groups}
    parent = Parent(number=0, weights_digest=weights_digest(pruned), steps=1)
    inherited = Inheritance.of(parent, weights_to_bytes(pruned), kept, graph)
    images_BCHW = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        found = masked_forward(inherited.widened(dense, graph), graph, keep_U, images_BCHW)
        torch.testing.assert_close(found, pruned(images_BCHW), rtol=0, atol=1e-4)
