"""The examples run and do what they say; never how long they take."""

import re
from pathlib import Path

import pytest
import torch

from examples import bandit, digits_mlp, oscillator, small_cnn, small_gpt


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_example_says_how_it_is_run():
    paths = list((Path(__file__).parent.parent / "examples").glob("*.py"))
    assert paths
    for path in paths:
        assert f"Run it: python examples/{path.name}\n" in path.read_text(encoding="utf-8")


def test_the_oracle_is_the_gradient_of_the_expected_reward_in_the_mean():
    logits = torch.tensor([[0.3, -0.2, 0.9], [1.0, 0.0, -1.0]], dtype=torch.float64, device="cpu", requires_grad=True)
    digits = torch.tensor([2, 1], device="cpu")
    (-logits.softmax(1).gather(1, digits.unsqueeze(1)).sum()).backward()
    count = 100_000
    rows, labels = logits.detach().repeat_interleave(count, 0), digits.repeat_interleave(count)
    estimates = bandit.Casino(seed=0).gradient(rows, labels).view(2, count, 3).mean(1)
    torch.testing.assert_close(estimates, logits.grad, atol=5e-3, rtol=0)


def test_the_smoothness_constant_of_the_bandit_holds():
    generator = torch.Generator().manual_seed(0)
    norms = []
    for scale in (0.3, 1.0, 3.0) * 30:
        logits = scale * torch.randn(10, generator=generator, dtype=torch.float64)
        hessian = torch.autograd.functional.hessian(lambda z: z.softmax(0)[0], logits)
        norms.append(torch.linalg.matrix_norm(hessian, 2).item())
    pair = torch.tensor([0.0, 1.317], dtype=torch.float64)  # where the second derivative of σ is largest
    steepest = torch.autograd.functional.hessian(lambda z: z.softmax(0)[0], pair)
    assert torch.linalg.matrix_norm(steepest, 2).item() == pytest.approx(3**0.5 / 9, abs=1e-6)
    assert max(norms) <= bandit.SMOOTHNESS


def test_the_bandit_is_learned_from_one_call_of_the_oracle_a_round(capsys, monkeypatch):
    make, casinos = bandit.Casino, []
    monkeypatch.setattr(bandit, "Casino", lambda seed: casinos.append(make(seed)) or casinos[-1])
    bandit.main()
    _, pulls, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert pulls[-1] == f"{bandit.CALLS * bandit.PULLS:,}"
    assert [casino.pulls for casino in casinos] == [bandit.CALLS * bandit.PULLS] * len(rows)
    rewards, *by_adam = [[float(number) for number in row[-len(pulls) :]] for row in rows]
    assert rewards[0] == pytest.approx(0.1, abs=0.02)
    assert rewards[-1] > 0.9
    assert len(by_adam) == len(bandit.ADAM_RATES)
    assert all(0.4 < reward < rewards[-1] for *_, reward in by_adam)


def test_the_oscillator_is_fitted_to_high_accuracy():
    assert oscillator.fit_by_surrogates(*oscillator.oscillation(200)) < 1e-9


@pytest.mark.slow
def test_the_oscillator_is_told_with_the_best_first(capsys, monkeypatch):
    monkeypatch.setattr(oscillator, "ADAM_RATES", (1e-3, 3e-3))
    monkeypatch.setattr(oscillator, "ROUNDS", 60)
    oscillator.main()
    _, *lines = capsys.readouterr().out.splitlines()
    losses = [float(line.split()[0]) for line in lines]
    assert len(losses) == 2 + len(oscillator.ADAM_RATES)
    assert losses == sorted(losses)
    assert losses[-1] < 1e-2


@pytest.mark.slow
def test_the_mlp_needs_fewer_rounds_than_adam(capsys):
    digits_mlp.main()
    by_surrogates, by_adam = (int(n) for n in re.findall(r"(\d+) rounds,", capsys.readouterr().out))
    assert by_surrogates < by_adam / 4 < digits_mlp.LIMIT


def test_the_cnn_learns(capsys):
    small_cnn.main()
    *rounds, accuracy = capsys.readouterr().out.splitlines()
    losses = [float(re.search(r"loss (\S+),", line)[1]) for line in rounds]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-3
    assert float(accuracy.split()[-1].rstrip("%")) > 95


@pytest.mark.slow
def test_the_gpt_learns_and_adam_is_shown_beside_it(capsys):
    small_gpt.main()
    _, _, by_surrogates, by_adam, last = capsys.readouterr().out.splitlines()
    own = [float(loss) for loss in by_surrogates.split()[1:]]
    assert own == sorted(own, reverse=True)
    assert own[-1] < 0.5 * own[0]
    assert by_adam.split()[0] == "adam,"
    assert "adam" in last
