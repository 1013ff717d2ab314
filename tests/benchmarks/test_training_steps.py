"""The two sides of the training benchmark are one training."""

import pytest
import torch

from benchmarks.training import Operations, Setting, literal_step, our_step


def test_ours_follows_the_literal_loop_with_fewer_operations():
    images = torch.rand(3, 2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    losses, operations = [], []
    for make in (literal_step, our_step):
        torch.manual_seed(0)
        step = make(Setting())
        with Operations() as counted:
            losses.append([step(images[0])])
        operations.append(counted.count)
        losses[-1] += [step(batch) for batch in images[1:]]
    for literal, ours in zip(*losses, strict=True):
        assert ours == pytest.approx(literal, rel=1e-3)
    assert operations[1] < 0.65 * operations[0]
