"""The picture of the viewer in the documentation can be drawn again."""

import shutil

import pytest

from benchmarks import screenshot
from components.ingest.phantom import PhantomConfig


@pytest.mark.integration
def test_the_page_of_phantom_pairs_is_photographed_small_enough_for_a_repository(tmp_path):
    executable = shutil.which("chromium")
    if not executable:
        pytest.skip("needs Chromium on the PATH (apt-get install chromium)")
    page = screenshot.write_page(tmp_path, PhantomConfig(subjects=2, slices=4, size=64))
    shot = screenshot.photograph(page, executable)
    assert shot.size == screenshot.SIZE
    shot.save(tmp_path / "viewer.png", optimize=True)
    assert 20_000 < (tmp_path / "viewer.png").stat().st_size < 150_000
