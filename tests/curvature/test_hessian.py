"""Products with the Hessian of Ψ∘f against a dense one from nested reverse mode — of Ψ, which is not that of h."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian

from surmin.curvature.hessian import LinearHessian, SurrogateHessian, surrogate_hessian
from surmin.curvature.recorded_hessian import GenericHessian
from surmin.stages.elementwise import ELEMENTWISE
from tests.modules import Cubed, CubedOnce
from tests.oracles import DenseBlock, assert_is_map_of, dense
from tests.waves import only_block

SAMPLES = 3
MODULES = {
    "linear": (lambda: [nn.Linear(3, 4)], (3,), LinearHessian),
    "linear, no bias": (lambda: [nn.Linear(3, 4, bias=False), nn.Tanh()], (3,), LinearHessian),
    "linear, two activations": (lambda: [nn.Linear(3, 2), nn.Tanh(), nn.Softplus()], (3,), GenericHessian),
    "linear on positions": (lambda: [nn.Linear(3, 2), nn.Tanh()], (2, 3), GenericHessian),
    "two linear layers": (lambda: [nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2), nn.Sigmoid()], (3,), GenericHessian),
    "convolution": (lambda: [nn.Conv2d(1, 2, 2), nn.Softplus()], (1, 3, 3), GenericHessian),
    "layer norm": (lambda: [nn.LayerNorm(4), nn.GELU()], (4,), GenericHessian),
    "no parameters": (lambda: [nn.Tanh(), nn.Flatten()], (2, 2), GenericHessian),
    **{
        f"linear, {kind.__name__}": (lambda kind=kind: [nn.Linear(3, 4), kind()], (3,), LinearHessian)
        for kind in ELEMENTWISE
        if kind is not nn.Hardsigmoid  # torch has no second derivative of it to compare with
    },
}


def reference(block: DenseBlock, z: Tensor, cotangent: Tensor, constants: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """∇²Ψ in (z, θ): Ψ = Σ_j ⟨g_j, f_j - f̄_j⟩ + ½ L_j ‖f_j - f̄_j‖²."""
    theta = block.vector()
    output = block(z, theta).detach()

    def surrogate(both: Tensor) -> Tensor:
        change = block(both[: z.numel()].view(z.shape), both[z.numel() :]) - output
        squares = change.flatten(1).square().sum(1)
        return (cotangent * change).sum() + (constants * squares).sum() / 2

    full = hessian(surrogate, torch.cat([z.flatten(), theta]))
    k = z.numel()
    return full[:k, :k], full[:k, k:], full[k:, k:]


def assert_products(found: SurrogateHessian, expected: tuple[Tensor, Tensor, Tensor], z: Tensor, size: int) -> None:
    zz, zt, tt = expected
    is_map_of = partial(assert_is_map_of, rtol=1e-9, atol=1e-9)
    is_map_of(zz, lambda u: found.input_product(u.view(z.shape)).flatten())
    if size:
        is_map_of(tt, lambda v: found.parameter_product(v)[0])
        is_map_of(tt, found.own_product)
        is_map_of(zt, lambda v: found.parameter_product(v)[1].flatten())
        is_map_of(zt.t(), lambda u: found.mixed_transpose(u.view(z.shape)))


def expansion(name: str) -> tuple[nn.Sequential, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A network, its input, per-sample gradients at its output, and L_j."""
    make, shape, _ = MODULES[name]
    torch.manual_seed(0)
    network = nn.Sequential(*make()).double()
    z = torch.randn(SAMPLES, *shape, dtype=torch.float64)
    output = network(z).detach()
    cotangent, constants = torch.randn_like(output), torch.rand(SAMPLES, dtype=torch.float64) + 0.5
    return network, z, cotangent, constants


@pytest.mark.parametrize("name", MODULES)
def test_every_block_of_the_hessian(name: str) -> None:
    network, z, cotangent, constants = expansion(name)
    found = surrogate_hessian(only_block(network), z, cotangent, constants)
    assert type(found) is MODULES[name][2]
    block = DenseBlock(network)
    assert_products(found, reference(block, z, cotangent, constants), z, block.size)


def test_the_closed_form_and_the_general_one_agree() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Mish()).double()
    z, cotangent = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    constants = torch.rand(5, dtype=torch.float64)
    block = only_block(network)
    general = GenericHessian(block, z, cotangent, constants.view(-1, 1))
    closed = surrogate_hessian(block, z, cotangent, constants)
    v, u = torch.randn(16, dtype=torch.float64), torch.randn_like(z)
    for left, right in zip(general.parameter_product(v), closed.parameter_product(v), strict=True):
        torch.testing.assert_close(left, right)
    torch.testing.assert_close(general.input_product(u), closed.input_product(u))
    torch.testing.assert_close(general.mixed_transpose(u), closed.mixed_transpose(u))


@pytest.mark.parametrize("name", MODULES)
def test_finite_differences_come_close(name: str) -> None:
    """Half the digits are lost, no more, wherever the module is smooth at the point."""
    network, z, cotangent, constants = expansion(name)
    block = only_block(network)
    exact = surrogate_hessian(block, z, cotangent, constants)
    found = surrogate_hessian(block, z, cotangent, constants, "finite-difference")
    v, u = torch.randn(block.size, dtype=torch.float64), torch.randn_like(z)
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(found.input_product(u), exact.input_product(u), **close)
    if block.size:
        torch.testing.assert_close(found.mixed_transpose(u), exact.mixed_transpose(u), **close)
        for left, right in zip(found.parameter_product(v), exact.parameter_product(v), strict=True):
            torch.testing.assert_close(left, right, **close)


def test_finite_differences_go_through_functions_written_by_hand() -> None:
    """Of which they need only the first derivative."""
    torch.manual_seed(0)
    layer = CubedOnce(3, 4).double()
    block = only_block(nn.Sequential(layer))
    z, cotangent = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    constants = torch.ones(5, dtype=torch.float64)
    found = surrogate_hessian(block, z, cotangent, constants, "finite-difference")
    twice = Cubed(3, 4).double()
    twice.load_state_dict(layer.state_dict())
    zz, zt, tt = reference(DenseBlock(nn.Sequential(twice)), z, cotangent, constants)
    u, v = torch.randn_like(z), torch.randn(block.size, dtype=torch.float64)
    own, mixed = found.parameter_product(v)
    assert torch.equal(found.own_product(v), own)
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(own, tt @ v, **close)
    torch.testing.assert_close(mixed.flatten(), zt @ v, **close)
    torch.testing.assert_close(found.input_product(u).flatten(), zz @ u.flatten(), **close)


def test_token_inputs_have_no_hessian_of_their_own() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Embedding(4, 3), nn.Tanh()).double()
    tokens = torch.tensor([[0, 1], [3, 3]])
    output = network(tokens).detach()
    cotangent, constants = torch.randn_like(output), torch.ones(2, dtype=torch.float64)
    found, block = surrogate_hessian(only_block(network), tokens, cotangent, constants), DenseBlock(network)

    def surrogate(theta: Tensor) -> Tensor:
        change = block(tokens, theta) - output
        return (cotangent * change).sum() + change.square().sum() / 2

    expected = hessian(surrogate, block.vector())
    for product in (found.own_product, lambda v: found.parameter_product(v)[0]):
        torch.testing.assert_close(dense(product, 12), expected)


def test_it_is_the_hessian_of_the_surrogate_and_not_that_of_the_loss() -> None:
    """With L = 1/η ≠ ∇²ℓ the two differ (the paper's appendix equates them): a test against ∇²h would be wrong."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4)).double()
    z, labels = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    block = DenseBlock(network)
    loss = lambda theta: nn.functional.cross_entropy(block(z, theta), labels, reduction="sum")  # noqa: E731
    cotangent = network(z).detach().softmax(1) - nn.functional.one_hot(labels, 4)
    found = surrogate_hessian(only_block(network), z, cotangent, torch.full((5,), 0.5, dtype=torch.float64))
    surrogate = dense(lambda v: found.parameter_product(v)[0], block.size)
    of_loss = hessian(loss, block.vector())
    assert torch.linalg.eigvalsh(surrogate - of_loss)[0] > -1e-12  # a bound, and a strict one
    assert (surrogate - of_loss).norm() > 0.5 * of_loss.norm()


@pytest.mark.parametrize("size", [1.0, 30.0, 255.0])
def test_finite_differences_know_how_large_their_point_is(size: float) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    with torch.no_grad():
        network[0].weight /= size
    z, cotangent, constants = torch.randn(5, 3) * size, torch.randn(5, 4), torch.ones(5)
    exact, found = (
        surrogate_hessian(only_block(network), z, cotangent, constants, products)
        for products in ("exact", "finite-difference")
    )
    u = torch.randn_like(z)
    error = (found.input_product(u) - exact.input_product(u)).norm()
    assert error < 0.02 * exact.input_product(u).norm()


def test_the_second_derivative_of_mish_far_out() -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.Mish())
    with torch.no_grad():
        network[0].weight.fill_(1)
    z = torch.tensor([[-200.0], [50.0], [200.0]])
    hessian = surrogate_hessian(only_block(network), z, torch.ones(3, 1), torch.zeros(3))
    assert (hessian.input_product(torch.ones(3, 1)).abs() < 1e-6).all()
