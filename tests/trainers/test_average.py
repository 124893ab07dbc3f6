import pytest
import torch
from diffusers.training_utils import EMAModel

from seggen_hf.trainers.average import WeightAverage


def walk(steps: int, seed: int = 0):
    """A parameter, and its values after each of `steps` steps, as a generator that sets them."""
    generator = torch.Generator().manual_seed(seed)
    parameter = torch.nn.Parameter(torch.randn(5, 3, generator=generator))

    def take():
        for step in range(1, steps + 1):
            parameter.data.add_(torch.randn(5, 3, generator=generator))
            yield step

    return parameter, take()


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_it_is_the_average_of_diffusers(decay):
    parameter, steps = walk(30)
    average, theirs = WeightAverage([parameter], decay), EMAModel([parameter], decay=decay)
    for step in steps:
        average.update(step)
        theirs.step([parameter])
        assert torch.allclose(average.shadow[0], theirs.shadow_params[0], atol=1e-5)


def test_the_first_update_takes_the_weights_themselves():
    parameter, steps = walk(1)
    average = WeightAverage([parameter], 0.9999)
    average.update(next(steps))
    assert torch.equal(average.shadow[0], parameter)


@pytest.mark.parametrize("every", [2, 5, 10])
def test_rarer_updates_keep_the_memory(every):
    """What is left of a weight after n steps is the same, whatever the steps between updates."""
    decay = 0.98
    shares = [WeightAverage([], decay, every).kept_share(step) for step in range(every, 601, every)][1:]
    plain = [WeightAverage([], decay).kept_share(step) for step in range(every + 1, 601)]
    assert torch.tensor(shares).prod().item() == pytest.approx(torch.tensor(plain).prod().item(), rel=1e-4)
    parameter, steps = walk(10)
    average, before = WeightAverage([parameter], decay, every), None
    for step in steps:
        before = average.shadow[0].clone()
        average.update(step)
        assert torch.equal(average.shadow[0], before) == bool(step % every)


def test_applied_it_is_in_the_parameters_and_they_come_back_as_they_were():
    parameter, steps = walk(3)
    average = WeightAverage([parameter], 0.5)
    for step in steps:
        average.update(step)
    place, weights, mean = parameter.data_ptr(), parameter.detach().clone(), average.shadow[0].clone()
    with pytest.raises(MemoryError), average.applied():
        assert torch.equal(parameter, mean)
        raise MemoryError
    assert torch.equal(parameter, weights) and parameter.data_ptr() == place
    assert torch.equal(average.shadow[0], mean)
