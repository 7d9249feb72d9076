import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from surmin.losses import ConvexLoss, CrossEntropy, GradientOracle, LogisticLoss, SquaredError
from tests.oracles import loss_hessians, reference_mean_loss

LOSSES: list[ConvexLoss] = [CrossEntropy(), SquaredError(), LogisticLoss()]
SHAPES = [(4, 3), (2, 3, 4), (2, 2, 2, 3)]
by_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
by_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def outputs_and_targets(loss: ConvexLoss, shape: tuple[int, ...], scale: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(shape))
    outputs = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    if isinstance(loss, CrossEntropy):
        return outputs, torch.randint(shape[-1], shape[:-1], generator=generator)
    return outputs, torch.rand(shape, generator=generator, dtype=torch.float64)


def outer(columns: Tensor) -> Tensor:
    """Σ_c S_cj S_cjᵀ over all outputs of sample j, (n, D, D)."""
    flat = columns.flatten(2)
    return torch.einsum("knd,kne->nde", flat, flat)


@by_loss
@by_shape
def test_value_and_gradient_agree_with_autograd(loss: ConvexLoss, shape: tuple[int, ...]) -> None:
    outputs, targets = outputs_and_targets(loss, shape)
    leaf = outputs.clone().requires_grad_()
    reference = reference_mean_loss(loss, leaf, targets)
    (expected,) = torch.autograd.grad(reference, leaf)
    torch.testing.assert_close(loss.sample_losses(outputs, targets).mean(), reference.detach(), rtol=1e-13, atol=0)
    torch.testing.assert_close(loss.gradient(outputs, targets) / len(outputs), expected, rtol=1e-12, atol=1e-15)
    assert loss.sample_losses(outputs, targets).shape == (len(outputs),)


@by_loss
@by_shape
def test_exact_factor_trace_and_smoothness_against_the_dense_hessian(loss: ConvexLoss, shape: tuple[int, ...]) -> None:
    outputs, targets = outputs_and_targets(loss, shape)
    expected = loss_hessians(loss, outputs, targets)
    factor = loss.factor(outputs, targets)
    assert factor.shape[1:] == outputs.shape
    assert factor.is_contiguous()
    torch.testing.assert_close(outer(factor), expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(loss.trace(outputs, targets), expected.diagonal(dim1=1, dim2=2).sum(1))
    assert loss.smoothness(outputs) >= torch.linalg.eigvalsh(expected).max() * (1 - 1e-12)


@pytest.mark.parametrize(("label", "dtype"), [(-100, torch.int64), (255, torch.uint8), (1, torch.int32)], ids=str)
@by_shape
def test_positions_that_do_not_count(shape: tuple[int, ...], label: int, dtype: torch.dtype) -> None:
    loss = CrossEntropy(ignore_index=label)
    outputs, targets = outputs_and_targets(loss, shape)
    ignored = torch.arange(targets.numel()).view(targets.shape) % 2 == 0
    targets = targets.masked_fill(ignored, label).to(dtype)
    loss.check(outputs, targets)

    def summed(outputs: Tensor) -> Tensor:
        flat = outputs.flatten(0, -2), targets.long().flatten()
        return nn.functional.cross_entropy(*flat, ignore_index=label, reduction="sum") / targets.numel()

    leaf = outputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(summed(leaf), leaf)
    hessian = torch.autograd.functional.hessian(summed, outputs).view(outputs.numel(), -1) * len(outputs)
    per_sample = (
        hessian.view(len(outputs), outputs[0].numel(), len(outputs), -1).diagonal(dim1=0, dim2=2).movedim(-1, 0)
    )
    torch.testing.assert_close(loss.sample_losses(outputs, targets).mean(), summed(outputs), rtol=1e-13, atol=0)
    torch.testing.assert_close(loss.gradient(outputs, targets) / len(outputs), gradient, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(outer(loss.factor(outputs, targets)), per_sample, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(loss.trace(outputs, targets), per_sample.diagonal(dim1=1, dim2=2).sum(1))
    columns = loss.sampled_factor(outputs, targets, 2, torch.Generator(outputs.device).manual_seed(0))
    assert torch.equal(columns.abs().sum((0, -1)) == 0, targets == label)


def test_a_label_that_bytes_cannot_hold_ignores_none_of_them() -> None:
    loss, outputs = CrossEntropy(ignore_index=-100), torch.zeros(2, 256)
    bytes_, integers = (torch.tensor([156, 3], dtype=dtype) for dtype in (torch.uint8, torch.int64))
    assert torch.equal(loss.sample_losses(outputs, bytes_), loss.sample_losses(outputs, integers))


def test_labels_out_of_range_beside_those_that_do_not_count() -> None:
    outputs = torch.zeros(3, 4)
    with pytest.raises(
        ValueError, match=r"labels run from -100 .*; if -100 is padding, say CrossEntropy\(ignore_index=-"
    ):
        CrossEntropy().check(outputs, torch.tensor([0, -100, 3]))
    with pytest.raises(ValueError, match=r"labels run from -1 to 3, but the network has 4 outputs \(0 to 3\)$"):
        CrossEntropy(ignore_index=-100).check(outputs, torch.tensor([-1, -100, 3]))


def test_the_smoothness_constants_are_attained() -> None:
    """½ for softmax with two equal classes, ¼ for logistic at 0, 1 for squared error: none can be smaller."""
    tie, label = torch.tensor([[0.0, 0.0, -50.0]], dtype=torch.float64), torch.tensor([0])
    largest = torch.linalg.eigvalsh(loss_hessians(CrossEntropy(), tie, label)).max()
    assert float(largest) == pytest.approx(0.5, rel=1e-12)
    assert CrossEntropy().smoothness(tie) == 0.5
    zero = torch.zeros(1, 2, dtype=torch.float64)
    for loss in (LogisticLoss(), SquaredError()):
        largest = torch.linalg.eigvalsh(loss_hessians(loss, zero, zero)).max()
        assert float(largest) == pytest.approx(loss.smoothness(zero), rel=1e-12)


@by_loss
@by_shape
def test_the_sampled_factor_is_unbiased(loss: ConvexLoss, shape: tuple[int, ...]) -> None:
    outputs, targets = outputs_and_targets(loss, shape, scale=1.0)
    expected = loss_hessians(loss, outputs, targets)
    rank, draws = 2, 6000
    generator = torch.Generator(outputs.device).manual_seed(7)
    alike = [tensor[:1].expand(draws, *tensor.shape[1:]) for tensor in (outputs, targets)]  # what is drawn is not
    samples = outer(loss.sampled_factor(*alike, rank, generator))
    error = samples.mean(0) - expected[:1]
    deviation = samples.std(0) / math.sqrt(draws)
    assert (error.abs() <= 5 * deviation + 1e-12).all()
    assert loss.sampled_factor(outputs, targets, rank, generator).shape == (rank, *outputs.shape)


@by_loss
def test_the_sampled_factor_depends_on_the_generator_alone(loss: ConvexLoss) -> None:
    outputs, targets = outputs_and_targets(loss, (4, 3))
    first, again, other = (
        loss.sampled_factor(outputs, targets, 3, torch.Generator(outputs.device).manual_seed(s)) for s in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def softmax_reference(logits: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """P and 1 - p for one row, in extended precision without cancellation."""
    z = logits.double().cpu().numpy().astype(np.longdouble)
    e = np.exp(z - z.max())
    rest = np.array([np.delete(e, i).sum() for i in range(len(e))])
    return e / e.sum(), rest / e.sum()


EXTREME = [
    [100.0, -100.0, 0.0],
    [-100.0, 100.0, 100.0],
    [20.0, 0.0, 0.0],
    [0.0, 0.0, 30.0],
    [100.0, 100.0, 100.0],
    [0.0, 12.0, -12.0],
    [100.0, 47.0, 47.0],
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("row", EXTREME, ids=str)
def test_cross_entropy_at_extreme_logits(row: list[float], dtype: torch.dtype) -> None:
    outputs, loss = torch.tensor([row], dtype=dtype), CrossEntropy()
    p, rest = softmax_reference(outputs[0])
    exact = np.diag(p * rest) - np.outer(p, p) * (1 - np.eye(3))
    tolerance = 50 * float(torch.finfo(dtype).eps)
    factor = loss.factor(outputs, torch.tensor([0]))
    # SSᵀ is right relative to its own diagonal: nothing is lost to 1 - p where p is nearly 1
    found = outer(factor.double())[0].cpu().numpy()
    scale = np.sqrt(np.outer(exact.diagonal(), exact.diagonal()))
    assert (np.abs(found - exact) <= tolerance * scale + 1e-36).all()
    trace = loss.trace(outputs, torch.tensor([0]))
    np.testing.assert_allclose(float(trace), float((p * rest).sum()), rtol=tolerance, atol=1e-36)
    for label in range(3):
        target = torch.tensor([label])
        value, gradient = loss.sample_losses(outputs, target), loss.gradient(outputs, target)
        expected = p.copy()
        expected[label] = -rest[label]
        assert torch.isfinite(value).all() and torch.isfinite(gradient).all()
        found = gradient[0].double().cpu().numpy()
        np.testing.assert_allclose(found, expected.astype(float), rtol=tolerance, atol=1e-36)
        exact_value = -np.log1p(-rest[label]) if rest[label] < 0.5 else -np.log(p[label])
        np.testing.assert_allclose(float(value), float(exact_value), rtol=tolerance, atol=1e-36)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@given(logit=st.floats(-100, 100, width=32))
def test_logistic_at_extreme_logits(dtype: torch.dtype, logit: float) -> None:
    outputs, loss = torch.tensor([[logit]], dtype=dtype), LogisticLoss()
    z = np.longdouble(logit)
    exact = np.exp(-abs(z)) / (1 + np.exp(-abs(z))) ** 2
    tolerance = 50 * torch.finfo(dtype).eps * (1 + abs(logit))
    for target in (0.0, 0.3, 1.0):
        targets = torch.tensor([[target]], dtype=dtype)
        y = np.longdouble(targets.item())
        value = y * np.log1p(np.exp(-z)) + (1 - y) * np.log1p(np.exp(z))
        gradient = (1 - y) / (1 + np.exp(-z)) - y / (1 + np.exp(z))
        assert float(loss.sample_losses(outputs, targets)) == pytest.approx(float(value), rel=tolerance, abs=1e-36)
        near = {"rel": tolerance} if target in (0, 1) else {"abs": tolerance}
        assert float(loss.gradient(outputs, targets)) == pytest.approx(float(gradient), **{"abs": 1e-36, **near})
    assert float(loss.factor(outputs, outputs)) ** 2 == pytest.approx(float(exact), rel=tolerance, abs=1e-36)
    assert float(loss.trace(outputs, outputs)) == pytest.approx(float(exact), rel=tolerance, abs=1e-36)


@given(
    classes=st.integers(2, 12), scale=st.sampled_from([1.0, 10.0, 1e3, 1e6]), seed=st.integers(0, 10_000),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_the_multinomial_factor_never_breaks(classes: int, scale: float, seed: int, dtype: torch.dtype) -> None:
    outputs = scale * torch.randn(5, classes, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    p, loss, labels = outputs.softmax(-1), CrossEntropy(), torch.zeros(5, dtype=torch.int64)
    exact = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    torch.testing.assert_close(outer(loss.factor(outputs, labels)), exact, rtol=0, atol=20 * torch.finfo(dtype).eps)
    trace = loss.trace(outputs, labels)
    assert (trace >= 0).all() and torch.isfinite(trace).all()


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "message"),
    [
        (CrossEntropy(), torch.zeros(2, 3), torch.zeros(2), "integer class labels"),
        (CrossEntropy(), torch.zeros(2, 3), torch.zeros(2, dtype=torch.bool), "integer class labels"),
        (CrossEntropy(), torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64), "expected \\(2,\\)"),
        (CrossEntropy(), torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.int64), r"classes come last: .*movedim"),
        (CrossEntropy(), torch.zeros(2, 3), torch.tensor([0, 3]), "from 0 to 3, but the network has 3 outputs"),
        (CrossEntropy(), torch.zeros(2, 3), torch.tensor([-1, 2]), "from -1 to 2"),
        (CrossEntropy(), torch.zeros(2), torch.tensor([0, 0]), "must have shape"),
        (CrossEntropy(), torch.zeros(2, 1), torch.tensor([0, 0]), "at least two classes"),
        (SquaredError(), torch.zeros(2, 3), torch.zeros(2), "do not fit"),
        (SquaredError(), torch.zeros(2, 1), torch.tensor([[math.nan], [0.0]]), "NaN"),
        (LogisticLoss(), torch.zeros(2, 1), torch.tensor([[math.inf], [0.0]]), "NaN or infinite"),
        (LogisticLoss(), torch.zeros(2, 1), torch.tensor([[1.5], [0.0]]), r"in \[0, 1\], got 0 to 1.5"),
        (LogisticLoss(), torch.zeros(2, 1), torch.tensor([[-0.5], [0.0]]), r"in \[0, 1\]"),
        (GradientOracle(lambda z, y: z, 1.0), torch.zeros(2, 1), torch.zeros(3, 1), "3 targets do not fit 2 samples"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value[:20],
)
def test_checks_say_what_is_wrong(loss: ConvexLoss, outputs: Tensor, targets: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loss.check(outputs, targets)


@by_loss
@by_shape
def test_checks_pass_what_fits(loss: ConvexLoss, shape: tuple[int, ...]) -> None:
    loss.check(*outputs_and_targets(loss, shape))


def oracle(function: Callable[[Tensor, Tensor], Tensor], constant: float = 2.0) -> GradientOracle:
    return GradientOracle(function, constant)


def test_a_gradient_oracle_is_a_gradient_and_a_constant() -> None:
    outputs, targets = torch.randn(3, 2, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
    loss = oracle(lambda z, y: 2 * (z - y))
    assert isinstance(loss, ConvexLoss)
    assert loss.sample_losses(outputs, targets).isnan().all()
    torch.testing.assert_close(loss.gradient(outputs, targets), 2 * outputs)
    torch.testing.assert_close(
        outer(loss.factor(outputs, targets)), 2 * torch.eye(2, dtype=torch.float64).expand(3, 2, 2)
    )
    drawn = loss.sampled_factor(outputs, targets, 4, torch.Generator(outputs.device).manual_seed(0))
    torch.testing.assert_close(drawn.abs(), torch.full_like(drawn, math.sqrt(2 / 4)))


def test_a_gradient_oracle_of_the_wrong_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"returned shape \(3,\) for outputs of shape \(3, 2\)"):
        oracle(lambda z, y: z.sum(1)).gradient(torch.zeros(3, 2), torch.zeros(3, 2))


def test_a_gradient_oracle_may_return_numpy_arrays() -> None:
    outputs = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    buffer = outputs.cpu().double().numpy()[::-1]
    gradient = GradientOracle(lambda z, y: buffer, 1.0).gradient(outputs, outputs)
    buffer[:] = 0  # as a simulator does in its next call
    assert torch.equal(gradient, outputs.flip(0))


def test_a_gradient_oracle_that_returns_nothing_is_named() -> None:
    with pytest.raises(TypeError, match="must return a tensor or a NumPy array, one gradient per sample, got NoneType"):
        GradientOracle(lambda z, y: None, 1.0).gradient(torch.zeros(3, 2), torch.zeros(3, 2))  # type: ignore[arg-type]


def test_a_gradient_oracle_s_constant_is_a_number() -> None:
    with pytest.raises(TypeError, match="needs a number as its constant, got '1'"):
        GradientOracle(lambda z, y: z, "1")  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", [SquaredError(), LogisticLoss()])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64, torch.bool])
def test_targets_of_any_real_type(loss: ConvexLoss, dtype: torch.dtype) -> None:
    outputs, targets = torch.randn(6, 3), torch.arange(18).view(6, 3) % 2
    loss.check(outputs, targets.to(dtype))
    for compute in (loss.gradient, loss.sample_losses):
        found = compute(outputs, targets.to(dtype))
        assert found.dtype == torch.float32
        assert torch.equal(found, compute(outputs, targets.float()))


@by_loss
def test_complex_outputs_are_refused(loss: ConvexLoss) -> None:
    outputs, targets = outputs_and_targets(loss, (4, 3))
    with pytest.raises(ValueError, match=r"outputs must be real numbers, got torch\.complex128"):
        loss.check(outputs.to(torch.complex128), targets)


def test_complex_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="targets must be real numbers"):
        SquaredError().check(torch.zeros(2, 1), torch.zeros(2, 1) + 1j)


@pytest.mark.parametrize("constant", [0.0, -1.0, float("nan"), float("inf")])
def test_an_oracle_needs_a_positive_constant(constant: float) -> None:
    with pytest.raises(ValueError, match="GradientOracle needs a function and a positive constant"):
        GradientOracle(lambda outputs, targets: outputs, constant)


@pytest.mark.parametrize("classes", [2, 3, 10, 15, 16, 17])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_few_classes_in_single_precision(classes: int, scale: float) -> None:
    """Padded to a whole vector on a processor: the same as in double precision, tangents and outputs not finite too."""
    loss, generator = CrossEntropy(), torch.Generator().manual_seed(classes)
    outputs = scale * torch.randn(7, 4, classes, generator=generator)
    targets = torch.randint(classes, (7, 4), generator=generator)
    tangents = torch.randn(outputs.shape, generator=generator)

    def figures(dtype: torch.dtype) -> list[Tensor]:
        own = outputs.to(dtype)
        slopes = torch.func.jvp(lambda z: loss.gradient(z, targets), (own,), (tangents.to(dtype),))[1]
        return [
            loss.sample_losses(own, targets), loss.gradient(own, targets), loss.trace(own, targets),
            loss.factor(own, targets), slopes,
        ]  # fmt: skip

    for single, double in zip(figures(torch.float32), figures(torch.float64), strict=True):
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, rtol=2e-4, atol=1e-6)
    outputs[3, 2, 1] = math.nan
    assert loss.sample_losses(outputs, targets).isnan().nonzero().flatten().tolist() == [3]
    assert loss.gradient(outputs, targets).isnan().any(-1).nonzero().tolist() == [[3, 2]]
