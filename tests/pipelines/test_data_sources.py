"""`fusion data import` from sources not to be trusted: hostile archives, git addresses, hooks of the user."""

import gzip
import io
import lzma
import tarfile
import zipfile

import pytest

from components.ingest import archive, source
from components.ingest.pin import PIN
from components.ingest.version import folder_version
from tests.datasets import fill, leftovers, packed, write_tree, zipped


def tar_of(place, *members, opened=open):
    """A tar file of members that say anything of themselves."""
    with opened(place, "wb") as raw, tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(content)
            info.linkname = "/etc/passwd"
            tar.addfile(info, io.BytesIO(content))
    return place


def zip_of(place, *members):
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, mode, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            opened.writestr(info, content)
    return place


ZEROS = bytes(source.MAX_IMAGE_BYTES + 1)
FILE, LINK, DEVICE = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE
IMAGE = "CT-MRI/CT/2004.png"
HOSTILE = {
    "climbing.tar": (lambda at: tar_of(at, ("../../evil.png", FILE, b"x")), "leads out of it"),
    "absolute.tar": (lambda at: tar_of(at, ("/tmp/evil.png", FILE, b"x")), "leads out of it"),
    "link.tar": (lambda at: tar_of(at, (IMAGE, LINK, b"")), "a link or a device"),
    "hardlink.tar": (lambda at: tar_of(at, (IMAGE, tarfile.LNKTYPE, b"")), "a link or a device"),
    "device.tar": (lambda at: tar_of(at, (IMAGE, DEVICE, b"")), "a link or a device"),
    "large.tar.gz": (lambda at: tar_of(at, (IMAGE, FILE, ZEROS), opened=gzip.open), "larger than 16 MiB, the limit"),
    "total.tar.gz": (
        lambda at: tar_of(at, ("a", FILE, bytes(3 << 20)), ("b", FILE, b"")),
        "the limits, as a decompression",
    ),
    "header.tar.xz": (
        lambda at: tar_of(at, ("a", b"x", ZEROS * 2), opened=lzma.open),
        "the limits, as a decompression",
    ),
    "climbing.zip": (lambda at: zip_of(at, ("a/../../evil.png", 0o644, b"x")), "leads out of it"),
    "windows.zip": (lambda at: zip_of(at, ("..\\..\\evil.png", 0o644, b"x")), "leads out of it"),
    "drive.zip": (lambda at: zip_of(at, ("C:evil.png", 0o644, b"x")), "leads out of it"),
    "link.zip": (lambda at: zip_of(at, (IMAGE, 0o120777, b"/etc/passwd")), "a link or a device"),
    "large.zip": (lambda at: zip_of(at, (IMAGE, 0o644, ZEROS)), "larger than 16 MiB, the limit"),
    "two.zip": (lambda at: zip_of(at, (f"a/{IMAGE}", 0o644, b"x"), (f"b/{IMAGE}", 0o644, b"x")), "CT-MRI 2 times"),
    "none.zip": (lambda at: zip_of(at, ("README", 0o644, b"x")), "holds none of the folders CT-MRI/CT"),
    "text.zip": (lambda at: at.write_text("no archive") and at, "is no zip or tar archive"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_and_leave_nothing(checkout, tmp_path, refused, monkeypatch, name):
    if name == "total.tar.gz":
        monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 2 << 20)
    make, complaint = HOSTILE[name]
    outside = sorted(path for path in tmp_path.iterdir())
    assert complaint in refused("data", "import", make(tmp_path / name))
    assert leftovers(checkout) == [] and sorted(set(tmp_path.iterdir()) - {tmp_path / name}) == outside


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz", "tar"])
def test_an_archive_cut_short_is_told_as_damaged(checkout, tree, tmp_path, refused, kind):
    place = tmp_path / f"a.{kind}"
    openers = {"tar.gz": gzip.open, "tar.xz": lzma.open, "tar": open}
    whole = zipped(tree, place) if kind == "zip" else packed(tree, place, openers[kind])
    # Tar ends in zeros that nobody misses, so the cut goes through the images.
    place.write_bytes(whole.read_bytes()[: place.stat().st_size // 2])
    assert "is damaged or encrypted" in refused("data", "import", place)
    assert not (checkout / "data").exists()


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("absent", "no such folder or archive: absent; give one"),
        ("git+ftp://example.org/a", "give https://, ssh:// or file://"),
        ("git+file:///absent", "git cannot fetch file:///absent"),
        ("git+{public}@" + "0" * 40, "does not have the commit 0000"),
        ("git+{public}@v1", "'v1' is no full commit hash"),
        ("git+ssh://git@host.invalid/group/atlas@v1", "'v1' is no full commit hash"),
        ("git+https://user:secret@host.invalid/atlas@" + "0" * 40, "holds a user or password"),
        ("git+ext::sh -c touch% evil", "is no address of a git repository"),
    ],
)
def test_a_source_that_is_not_there_is_one_line(checkout, public, refused, given, complaint):
    assert complaint in refused("data", "import", given.format(public=public[0]))
    assert leftovers(checkout) == [] and not (checkout / "evil").exists()


def test_hooks_of_the_user_do_not_run_and_git_asks_nothing(checkout, uncached, public, fusion, monkeypatch, tmp_path):
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "reference-transaction", "post-merge"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        (hooks / name).chmod(0o755)
    (tmp_path / ".gitconfig").write_text(f"[core]\n\thooksPath = {hooks}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert fusion("data", "import").returncode == 0
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "given",
    [
        "git+https://user:secret@127.0.0.1/x@" + "0" * 40,
        "git+http://user:secret@127.0.0.1/x@" + "0" * 40,
        "git+ssh://user:secret@127.0.0.1/x@" + "0" * 40,
        "git+https://user:secret@127.0.0.1/x@",
        "git+https://user:secret@127.0.0.1",
        "git+https://127.0.0.1/x?token=secret@" + "0" * 40,
        "http://user:secret@127.0.0.1/x.zip",
        "s3://user:secret@bucket/prefix",
        "user:secret@host/x.zip",
    ],
)
@pytest.mark.parametrize("options", [[], ["--new-version"]])
@pytest.mark.parametrize("complete", [True, False])
def test_no_password_of_a_source_is_told_or_pinned(checkout, uncached, tree, fusion, caplog, given, options, complete):
    if complete:
        fill(checkout, tree)
    elif given.startswith("s3") and "--new-version" not in options:
        pytest.skip("asks the network")
    done = fusion("data", "import", given, *options)
    assert "secret" not in done.stdout + done.stderr + caplog.text + (checkout / PIN).read_text()
    assert done.returncode == 2 or "nothing to do" in done.stdout


def test_a_password_in_an_older_pin_is_neither_told_nor_handed_on(checkout, uncached, tree, fusion):
    text = (checkout / PIN).read_text()
    address = next(line for line in text.splitlines() if "git:" in line)
    (checkout / PIN).write_text(text.replace(address, "    git: https://user:secret@127.0.0.1/x"))
    done = fusion("data", "import", "git")
    assert done.returncode == 2 and "secret" not in done.stdout + done.stderr
    fill(checkout, tree)
    write_tree(checkout / "data", {"CT-MRI": ("37003",)})
    assert fusion("data", "import", "data", "--new-version").returncode == 0
    assert "secret" not in (checkout / PIN).read_text()


def test_the_web_address_of_an_archive_is_to_be_downloaded_and_a_dead_one_cannot_be_reached(checkout, refused):
    assert "is the address of an archive; download it" in refused("data", "import", "https://127.0.0.1:9/x.zip")
    assert "cannot reach https://127.0.0.1:9/x" in refused("data", "import", "https://127.0.0.1:9/x")


def test_a_zip_with_the_backslashes_of_windows_is_one_of_folders(checkout, uncached, tree, tmp_path, fusion, refused):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        for path in sorted(tree.rglob("*")):
            name = "images\\" + str(path.relative_to(tree)).replace("/", "\\") + ("\\" if path.is_dir() else "")
            made = zipfile.ZipInfo("name")
            made.filename = made.orig_filename = name
            opened.writestr(made, b"" if path.is_dir() else path.read_bytes())
    assert b"images\\CT-MRI\\CT\\2004.png" in (tmp_path / "a.zip").read_bytes()
    assert fusion("data", "import", tmp_path / "a.zip").returncode == 0
    assert folder_version(checkout / "data") == folder_version(tree)


@pytest.mark.parametrize("name", ["a\\..\\..\\evil.png", "\\evil.png", "\\\\host\\evil.png", "C:\\evil.png"])
def test_a_backslash_leads_out_of_no_zip(checkout, tmp_path, refused, name):
    assert "leads out of it" in refused("data", "import", zip_of(tmp_path / "a.zip", (name, 0o644, b"x")))


def test_two_spellings_of_one_member_are_refused(checkout, tmp_path, refused):
    place = zip_of(tmp_path / "a.zip", ("CT-MRI/CT/2004.png", 0o644, b"x"), ("CT-MRI\\CT\\2004.png", 0o644, b"x"))
    assert "twice" in refused("data", "import", place)


@pytest.mark.parametrize("cut", ["at a member", "in a header"])
@pytest.mark.parametrize("opened", [open, gzip.open])
def test_a_tar_without_its_end_makes_no_version(checkout, uncached, tree, tmp_path, refused, cut, opened):
    members = [f"CT-MRI/{modality}/{name}.png" for name in (2004, 2005) for modality in ("CT", "MRI")]
    content = tar_of(tmp_path / "whole", *((name, FILE, (tree / name).read_bytes()) for name in members)).read_bytes()
    with tarfile.open(tmp_path / "whole") as whole:
        third = whole.getmembers()[2].offset
    with opened(tmp_path / "a.tar", "wb") as stream:
        stream.write(content[: third + (300 if cut == "in a header" else 0)])
    before = (checkout / PIN).read_bytes()
    assert "is cut short" in refused("data", "import", tmp_path / "a.tar", "--new-version")
    assert (checkout / PIN).read_bytes() == before and leftovers(checkout) == []
