"""How a TrainJob may fare on the API server of these tests, and what the train step says of it."""

import pytest

from components.train.trainjob import run_trainjob
from model.errors import InputError


def failing(api, *states, attempts: int = 1):
    """A controller whose pod of node 1 ends as told, in each attempt, before the TrainJob fails."""

    def fail(job) -> None:
        name = job["metadata"]["name"]
        for attempt in range(attempts):
            leading, other = (api.add_pod(name, node, attempt) for node in (0, 1))
            api.run_pod(leading)
            api.write_log(leading, f"attempt {attempt}")
            states[min(attempt, len(states) - 1)](other)
            api.end_pod(leading, 1, message="RuntimeError: [gloo] Connection closed by peer")
        api.set_condition(name, "Failed")

    return fail


def complaint(spec, dataset, model, cluster, patience=None) -> str:
    with pytest.raises(InputError) as refused:
        run_trainjob(spec, dataset, model, patience, cluster)
    assert not model.exists()
    assert "\n" not in str(refused.value)
    return str(refused.value)
