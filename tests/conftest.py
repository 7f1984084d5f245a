"""Fixtures shared by all tests."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    # The GPU's kernels run on the CPU then; Triton reads this when it is imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_configure(config):
    """One thread each: the suite runs in as many processes as there are cores."""
    torch.set_num_threads(1)


@pytest.fixture(
    params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)],
)
def device(request):
    """The CPU always; CUDA where there is one."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return torch.device(request.param)


@pytest.fixture
def interpreter(monkeypatch):
    """Run the GPU's kernels on the CPU; skips where they run on a GPU, or nowhere."""
    if torch.cuda.is_available():
        pytest.skip("the kernels run on the CUDA device here")
    pytest.importorskip("triton", reason="the kernels need triton")
    from triton import language
    from triton.runtime import interpreter

    def widened(x):
        """Bfloat16, which NumPy does not know, is stored as its bits."""
        if x.dtype.scalar != language.bfloat16:
            return x.data
        return (x.data.astype(np.uint32) << 16).view(np.float32)

    def dot(_builder, a, b, total, *_precision):
        product = np.matmul(widened(a), widened(b), dtype=np.float32)
        return interpreter.TensorHandle(product + total.data, total.dtype.scalar)

    patch_tensor = interpreter._patch_lang_tensor

    def with_index(tensor, scope):
        patch_tensor(tensor, scope)
        # NumPy 2.4 makes no number of an array that has one.
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)
    monkeypatch.setattr(interpreter, "_patch_lang_tensor", with_index)
    from crossdna.ops import fusion

    # Operands are prepared without a compiler.
    monkeypatch.setattr(fusion, "PLAIN", {"kernel_operands"})


@pytest.fixture
def rng():
    """A seeded NumPy generator."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def shared():
    """The folder of real data beside the checkout; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """Make seeded checkpoints of a CrossDNA of two layers: class name to directory."""
    import crossdna

    folder = tmp_path_factory.mktemp("checkpoints")

    def make(kind="CrossDNAForMaskedLM", **changes):
        path = folder / "-".join([kind, *(f"{k}={v}" for k, v in changes.items())])
        if not path.exists():
            torch.manual_seed(0)
            sizes = {
                "d_model": 16,
                "depth": 2,
                "num_heads": 2,
                "head_dim": 8,
                "attention_heads": 4,
                "window_size": 6,
                "block_size": 128,
            }
            config = crossdna.CrossDNAConfig(**{**sizes, **changes})
            model = getattr(crossdna, kind)(config)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if name.endswith("A_log"):
                        # Freshly drawn heads forget within a base.
                        parameter.fill_(-1.0)
                    elif name.startswith("head."):
                        parameter.mul_(2)
            model.save_pretrained(path)
        return path

    return make


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    """A cache of genomes that goes away with the test."""
    monkeypatch.setenv("CROSSDNA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def left_unfinished(monkeypatch):
    """Run a command that is interrupted before it removes its finished chunks."""
    from crossdna.cli import main

    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    def run(words):
        with monkeypatch.context() as patch:
            patch.setattr("crossdna.analysis.chunks.ChunkStore.remove", interrupted)
            assert main(words) != 0

    return run
