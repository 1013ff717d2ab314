"""Which images a process takes: every one once an epoch, whatever the number of processes, resumable at any step."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.pairs import PackedPairs
from model.sampling import Sampler, Singles, crops, read_ahead

samplers = st.builds(
    Sampler,
    images=st.integers(1, 90),
    batch=st.integers(1, 5),
    world=st.integers(1, 8),
    accumulate=st.integers(1, 3),
    slack=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    seed=st.integers(0, 99),
)


@given(sampler=samplers, epoch=st.integers(1, 9))
def test_every_image_is_taken_once_an_epoch_by_one_process(sampler: Sampler, epoch: int):
    dealt = [list(sampler.epoch(epoch, rank)) for rank in range(sampler.world)]
    taken = [index for steps in dealt for shares in steps for s in shares if s.weight for index in s.indices.tolist()]
    assert sorted(taken) == list(range(sampler.images))
    assert {len(steps) for steps in dealt} == {sampler.steps}
    for step in range(sampler.steps):
        # DDP takes the mean over processes: each image then counts as much as any other of its step.
        shares = [share for steps in dealt for share in steps[step] if share.weight]
        assert {round(share.weight / len(share.indices), 9) for share in shares} == {
            round(sampler.world / sampler.images_of(step), 9)
        }
        assert max(len(share.indices) for share in shares) <= sampler.batch
        assert all(len(steps[step]) <= sampler.accumulate for steps in dealt)


@given(sampler=samplers, epoch=st.integers(1, 9), data=st.data())
def test_an_epoch_goes_on_at_any_step_as_it_would_have(sampler: Sampler, epoch: int, data):
    rank, first = data.draw(st.integers(0, sampler.world - 1)), data.draw(st.integers(0, sampler.steps))
    whole, rest = list(sampler.epoch(epoch, rank)), list(sampler.epoch(epoch, rank, first))
    assert len(rest) == len(whole) - first
    for shares, others in zip(whole[first:], rest, strict=True):
        for a, b in zip(shares, others, strict=True):
            assert a.weight == b.weight
            assert all(
                torch.equal(x, y) for x, y in ((a.indices, b.indices), (a.corners, b.corners), (a.flips, b.flips))
            )


@given(sampler=samplers)
def test_processes_take_together_what_one_takes_with_larger_batches(sampler: Sampler):
    alone = Sampler(sampler.images, sampler.images_a_step, 1, 1, sampler.slack, sampler.seed)
    for step, shares in enumerate(alone.epoch(1)):
        together = [
            index
            for rank in range(sampler.world)
            for share in list(sampler.epoch(1, rank))[step]
            if share.weight
            for index in share.indices.tolist()
        ]
        assert sorted(together) == sorted(shares[0].indices.tolist())


def test_epochs_and_seeds_are_shuffled_differently_and_crops_stay_inside():
    sampler = Sampler(64, 64, slack=(3, 5), seed=1)
    first, second = (next(sampler.epoch(epoch))[0] for epoch in (1, 2))
    assert first.indices.tolist() != second.indices.tolist() != list(range(64))
    assert first.corners.amin(0).tolist() == [0, 0]
    assert first.corners.amax(0).tolist() == [3, 5]
    assert 10 < int(first.flips.sum()) < 54


@given(top=st.integers(0, 48), left=st.integers(0, 48), flip=st.booleans())
def test_crops_are_the_pixels_of_their_image(packed, top: int, left: int, flip: bool):
    pairs = PackedPairs.open(packed, "train")
    pixels = Singles(pairs).pixels(torch.tensor([0, 3]))
    cut = crops(pixels, torch.tensor([[0, 0], [top, left]]), torch.tensor([False, flip]), (16, 12))
    expected = pairs.images[1, 1, top : top + 16, left : left + 12]
    assert np.array_equal((cut[0, 0] * 255).round().numpy(), pairs.images[0, 0, :16, :12])
    assert np.array_equal((cut[1, 0] * 255).round().numpy(), expected[:, ::-1] if flip else expected)


def test_reading_ahead_changes_nothing_and_passes_errors_on(packed):
    singles, sampler = Singles(PackedPairs.open(packed, "train")), Sampler(12, 5, slack=(48, 48))
    steps = list(read_ahead(singles, sampler.epoch(1), torch.device("cpu"), (16, 16)))
    assert [batch.shape[0] for ((batch, _),) in steps] == [5, 5, 2]
    for ((batch, weight),), (share,) in zip(steps, sampler.epoch(1), strict=True):
        assert torch.equal(batch, crops(singles.pixels(share.indices), share.corners, share.flips, (16, 16)))
        assert weight == share.weight
    with pytest.raises(IndexError):
        list(read_ahead(singles, Sampler(13, 5).epoch(1), torch.device("cpu"), (16, 16)))
