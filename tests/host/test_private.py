"""Secret files behind symbolic links, and on Windows."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from he_agg.errors import KeystoreError, Reason
from he_agg.host.private import followed, read_private
from he_agg.host.windows import strangers_in
from keys.identity import Identity
from keys.pinning import read_pinned
from keys.secret_file import read_secret_text
from tests.support.owners import somebody_elses

ME = "S-1-5-21-1004336348-1177238915-682003330-1001"


def mounted(volume, name="key", content=b"secret"):
    """Write a secret as Kubernetes mounts it: a link over a link to a folder that is replaced as a whole."""
    (folder := volume / "..2026_11_29_20_00_00.1").mkdir(mode=0o755)
    (folder / name).write_bytes(content)
    (folder / name).chmod(0o400)
    (volume / "..data").symlink_to(folder.name)
    (volume / name).symlink_to(f"..data/{name}")
    volume.chmod(0o1777)  # what its tmpfs has; nobody can replace what is root's in it
    return volume / name


def test_a_secret_as_kubernetes_mounts_it(tmp_path):
    link = mounted(tmp_path)
    assert read_private(link, 100, "") == b"secret"
    assert followed(link) == tmp_path / "..2026_11_29_20_00_00.1/key"
    # As the kubelet replaces it: another folder, and `..data` renamed onto the old one.
    (newer := tmp_path / "..2026_11_30_20_00_00.2").mkdir(mode=0o755)
    (newer / "key").write_bytes(b"newer")
    (newer / "key").chmod(0o400)
    (tmp_path / "..data_tmp").symlink_to(newer.name)
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert read_private(link, 100, "") == b"newer"


def test_identity_and_passphrase_behind_links(tmp_path):
    Identity.create("hospital-a").save(tmp_path / "saved")
    identity = mounted(tmp_path, "hospital-a.identity", (tmp_path / "saved").read_bytes())
    assert Identity.load(identity).name == "hospital-a"
    (other := tmp_path / "other").mkdir()
    assert read_secret_text(mounted(other, "passphrase", b"correct horse\n")) == "correct horse"


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
@pytest.mark.parametrize("where", ["link", "between", "target"])
def test_a_directory_on_the_way_that_others_write_to(tmp_path, where, mode, absolute):
    for name in ("link", "between", "target"):
        (tmp_path / name).mkdir()
    (tmp_path / "target/key").write_bytes(b"secret")
    (tmp_path / "target/key").chmod(0o600)
    (tmp_path / "between/key").symlink_to(tmp_path / "target/key" if absolute else "../target/key")
    (tmp_path / "link/key").symlink_to(tmp_path / "between/key" if absolute else "../between/key")
    assert read_private(tmp_path / "link/key", 100, "") == b"secret"
    (tmp_path / where).chmod(mode)
    with pytest.raises(KeystoreError, match=f"{where}: on the way of .* nobody else writes to, got mode 0{mode:o}"):
        read_private(tmp_path / "link/key", 100, "")
    (tmp_path / where).chmod(mode | stat.S_ISVTX)  # as /tmp is: others cannot touch what is not theirs
    assert read_private(tmp_path / "link/key", 100, "") == b"secret"
    assert read_private(tmp_path / "target/key", 100, "") == b"secret"


@pytest.mark.parametrize("what", ["folder", "key"])
def test_what_is_somebody_elses_behind_a_link(tmp_path, monkeypatch, what):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/key").write_bytes(b"secret")
    (tmp_path / "folder/key").chmod(0o600)
    (tmp_path / "link").symlink_to("folder/key")
    assert read_private(tmp_path / "link", 100, "") == b"secret"
    somebody_elses(tmp_path / "folder" if what == "folder" else tmp_path / "folder/key", monkeypatch)
    with pytest.raises(KeystoreError) as caught:
        read_private(tmp_path / "link", 100, "")
    assert caught.value.reason == Reason.UNSAFE_PERMISSIONS


@pytest.mark.parametrize("target", ["folder", "pipe", "open", "nothing", "link"])
def test_what_is_no_secret_file_behind_a_link(tmp_path, target):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "open").write_bytes(b"secret")
    (tmp_path / "open").chmod(0o644)
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(KeystoreError) as caught:
        read_private(tmp_path / "link", 100, "")
    assert caught.value.reason == (Reason.FILE_MISSING if target == "nothing" else Reason.UNSAFE_PERMISSIONS)


def test_an_accepted_roster_behind_a_link_that_others_can_turn(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "roster.json").write_bytes(b"{}")
    (tmp_path / "open/roster.json").symlink_to("../roster.json")
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(KeystoreError, match="on the way of a symbolic link"):
        read_pinned(tmp_path / "open/roster.json")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to have a file of root's")
@pytest.mark.parametrize(("mode", "read"), [(0o440, True), (0o640, True), (0o444, False), (0o460, False)])
def test_a_mounted_file_of_roots_may_be_its_groups(mode, read):
    """Kubernetes mounts secrets as root's, readable to the group of the pod, behind links of root's."""
    with tempfile.TemporaryDirectory(prefix="he-agg-test-") as place:
        directory = Path(place)
        directory.chmod(0o755)
        (directory / "data").write_bytes(b"secret")
        os.chown(directory / "data", 0, 65534)
        (directory / "data").chmod(mode)
        (directory / "link").symlink_to("data")
        os.setegid(65534)
        os.seteuid(65534)
        try:
            if read:
                assert read_private(directory / "link", 100, "") == b"secret"
            else:
                with pytest.raises(KeystoreError, match="others may read or change it"):
                    read_private(directory / "link", 100, "")
        finally:
            os.seteuid(0)
            os.setegid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a link away")
def test_a_link_of_somebody_elses_is_not_followed(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "link").symlink_to("secret")
    assert read_private(tmp_path / "link", 100, "") == b"secret"
    os.chown(tmp_path / "link", 65534, 65534, follow_symlinks=False)
    with pytest.raises(KeystoreError, match="expected a symbolic link of user 0 or root, got one of 65534"):
        read_private(tmp_path / "link", 100, "")


@pytest.mark.parametrize(
    ("sddl", "found"),
    [
        (f"O:{ME}D:(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;{ME})", []),  # as a file in a profile has it, inherited or not
        (f"O:{ME}D:AI(A;ID;FA;;;SY)(A;ID;FA;;;BA)(A;ID;FA;;;{ME})", []),
        (f"O:BAG:DUD:P(A;OICI;FA;;;{ME})", []),
        (f"O:{ME}D:P(D;;FA;;;WD)(A;;FA;;;{ME})", []),
        (f"O:{ME}D:(A;OICIIO;GA;;;CO)(A;;FA;;;{ME})", []),  # for what is made below it only
        (f"O:{ME}D:AI(A;ID;FA;;;BA)(A;ID;0x1200a9;;;BU)", ["BU"]),  # a folder below C:\\: all users read
        (f"O:{ME}D:AI(A;ID;0x1301bf;;;AU)(A;ID;FR;;;WD)", ["AU", "WD"]),
        (f"O:{ME}D:(A;;FA;;;{ME})(A;;FR;;;{ME}0)", [f"{ME}0"]),
        (f"O:{ME}0D:(A;;FA;;;{ME})", [f"{ME}0"]),
        (f"O:{ME}D:(XA;;FX;;;WD)(A;;FA;;;{ME})", ["WD"]),
        (f"O:{ME}D:NO_ACCESS_CONTROL", ["everybody"]),
        (f"O:{ME}", ["everybody"]),
        (f'O:{ME}D:(XA;;FX;;;WD;(@User.Title=="PM"))', ["everybody"]),  # not understood
        ("", ["everybody"]),
        (f"D:(A;;FA;;;{ME})", ["an unknown owner"]),
    ],
)
def test_who_else_may_read_on_windows(sddl, found):
    assert strangers_in(sddl, ME) == found


@pytest.mark.parametrize(
    ("rights", "changes"),
    [
        ("FR", False),
        ("FRFX", False),
        ("0x1200a9", False),  # read and run
        ("0x120089", False),  # read
        ("FA", True),
        ("FW", True),
        ("GA", True),
        ("0x1301bf", True),  # change
        ("0x120116", True),  # write
        ("0x1f01ff", True),  # all
        ("WD", True),
        ("SD", True),
    ],
)
def test_who_else_may_change_on_windows(rights, changes):
    assert strangers_in(f"O:{ME}D:(A;;FA;;;{ME})(A;;{rights};;;BU)", ME, changing=True) == (["BU"] if changes else [])
