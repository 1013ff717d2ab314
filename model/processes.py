"""One process of a training among many: its number, and what it shares with the others."""

import os
import warnings

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from model.errors import InputError


def rank_and_world() -> tuple[int, int]:
    """The number of this process and of all processes of this training."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def local_rank() -> int:
    """The number of this process on its machine, as torchrun tells it."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def distribute(network: nn.Module) -> DistributedDataParallel:
    """The network with its gradients averaged over all processes."""
    # Looking for unused weights keeps DDP from regrouping the gradients after its first step, so that a resumed
    # training adds them up in the order of one that was never stopped. Statistics are shared by the loop itself.
    warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
    return DistributedDataParallel(network, broadcast_buffers=False, find_unused_parameters=True)


def check_same_step(step: int, world: int, device: torch.device) -> None:
    """Raise InputError unless every process found the checkpoint of the same step."""
    steps = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world)]
    distributed.all_gather(steps, torch.tensor([step], device=device))
    found = sorted({int(each) for each in steps})
    if len(found) > 1:
        raise InputError(
            f"the processes found checkpoints of different steps ({', '.join(map(str, found))}); give a place for"
            " checkpoints that all of them see, such as s3://bucket/prefix"
        )
