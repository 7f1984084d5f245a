import pytest
import torch

from crossdna.ops.fusion import fused


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_a_function_stays_fused_for_many_kinds_of_operands(fresh_compiler):
    """Beyond torch's own limit of eight it would silently run unfused."""
    graphs = []

    def count(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    def twice(x):
        return x + x

    kinds = [
        (dtype, rank)
        for dtype in (torch.float64, torch.float32, torch.bfloat16)
        for rank in (1, 2, 3, 4)
    ]
    for dtype, rank in kinds:
        x = torch.ones(*[3] * rank, dtype=dtype)
        assert torch.equal(fused(twice, count)(x), x + x)
    assert len(graphs) == len(kinds)
