"""Which modality a volume is told to be of, and when two are told to be swapped."""

import json

import numpy as np
import pytest

from model.errors import InputError
from model.modality import check_order, evidence
from model.volumes import Volume


def volume(least, modality="OT"):
    return Volume(np.linspace(least, 900, 60, dtype=np.float32).reshape(3, 4, 5), np.eye(4), modality)


@pytest.mark.parametrize(
    ("name", "least", "said", "code"),
    [
        ("a.nii", -1000, "CT", "CT"),
        ("sub-1_T1w.nii", -1000, "CT", "CT"),
        ("sub-1_T1w.nii.gz", 0, "MR", "MR"),
        ("sub-1_task-rest_bold.nii", 0, "MR", "MR"),
        ("sub-1_trc-FDG_pet.nii.gz", 0, "PET", "PT"),
        ("SPECT.nii", 0, "SPECT", "NM"),
        ("sub-1_ct.nii", 0, "CT", "CT"),
        ("pet-on-mr.nii", 0, "nothing", "OT"),
        ("petra_action.nii", 0, "nothing", "OT"),
    ],
)
def test_values_then_names_tell_the_modality_of_nifti(tmp_path, name, least, said, code):
    told = evidence(tmp_path / name, volume(least))
    assert told.code == code and said in str(told)


@pytest.mark.parametrize("content", ['{"Modality": "PT", "PatientName": "SECRET"}', '["PT"]', "{", '{"Modality": 7}'])
def test_a_sidecar_tells_it_before_the_name_and_nothing_else(tmp_path, content):
    (tmp_path / "x_T1w.json").write_text(content)
    told = evidence(tmp_path / "x_T1w.nii.gz", volume(0))
    assert told.code == ("PT" if "SECRET" in content else "MR") and "SECRET" not in str(told)
    (tmp_path / "x_T1w.json").write_text(json.dumps({"Modality": "MR"}))
    assert evidence(tmp_path / "x_T1w.dcm", volume(0, "CT")).code == "CT"


@pytest.mark.parametrize(
    ("first", "second", "swapped"),
    [
        (volume(0), volume(-1000), True),
        (volume(-600), volume(-1000), False),
        (volume(-1000), volume(0), False),
        (volume(0), volume(0), False),
        (volume(0, "MR"), volume(0, "PT"), True),
        (volume(0, "MR"), volume(0), False),
        (volume(0, "PT"), volume(-1000), False),
        (volume(-1000), volume(-1000), False),
    ],
)
def test_two_are_swapped_only_where_something_says_so(tmp_path, first, second, swapped):
    paths = (tmp_path / "a.nii", tmp_path / "b.nii")
    if not swapped:
        check_order(paths, (first, second), "")
        return
    with pytest.raises(InputError, match=r"are swapped.*give CT, PET or SPECT first"):
        check_order(paths, (first, second), "or not")
