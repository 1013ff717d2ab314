"""The picture of the documentation shows both lesions of every pair, and the default strategy whatever it is."""

import numpy as np
from PIL import Image

from benchmarks import picture
from components.ingest.phantom import PhantomConfig
from model.methods import strategy_title
from model.strategies import DEFAULT_STRATEGY

SMALL = PhantomConfig(subjects=3, slices=4, size=64)


def test_the_pairs_show_both_lesions_each_of_another_head():
    pairs = picture.telling_pairs(SMALL, 2)
    assert len({pair.name[:-3] for pair in pairs}) == 2
    assert all(pair.truth[lesion].any() for pair in pairs for lesion in ("ct_lesion", "mri_lesion"))


def test_the_command_draws_a_row_a_pair_of_what_is_compared(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(picture, "PhantomConfig", lambda: SMALL)
    monkeypatch.setattr("sys.argv", ["picture", "-o", str(tmp_path / "fusion.png")])
    picture.main()
    assert capsys.readouterr().out.startswith(f"wrote {tmp_path / 'fusion.png'}: phantom pairs 10")
    drawn = np.array(Image.open(tmp_path / "fusion.png"))
    captions = list(picture.row(picture.telling_pairs(SMALL, 1)[0], picture.fusions()))
    assert captions[:3] == ["CT", "MR", "elementwise maximum"]
    assert "SFNN" in captions[3] and strategy_title(DEFAULT_STRATEGY) in captions[4]
    assert drawn.shape[1] == 5 * 64 + 4 * picture._GAP
    for line, pair in enumerate(picture.telling_pairs(SMALL, picture.PAIRS)):
        top = line * (64 + picture._GAP)
        tiles = [drawn[top : top + 64, left : left + 64] for left in range(0, drawn.shape[1], 64 + picture._GAP)]
        assert np.array_equal(tiles[0], pair.ct) and np.array_equal(tiles[1], pair.mri)
        assert np.array_equal(tiles[2], np.maximum(pair.ct, pair.mri))
        assert not np.array_equal(tiles[3], tiles[4])
