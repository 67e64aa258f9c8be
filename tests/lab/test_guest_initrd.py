"""The initial RAM disk of a machine in QEMU: its archive has the files that its script needs, in their order."""

import lzma
from pathlib import Path

import pytest

from lab.guest_initrd import MODULES, PROGRAMS, initrd


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The files of a Debian that the archive is made of. Each one's content is its name."""
    drivers = tmp_path / "usr/lib/modules/6.1.0/kernel/drivers"
    programs = tmp_path / "usr/lib/klibc/bin"
    for path in (*(drivers / name for name in MODULES), *(programs / name for name in PROGRAMS)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    (drivers.parent.parent / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    (tmp_path / "usr/lib/klibc-AbC.so").write_text("the loader")
    return tmp_path


def _unpacked(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and content of each file of an archive of the form `newc` (cpio(5))."""
    files: dict[str, tuple[int, bytes]] = {}
    while True:
        assert archive[:6] == b"070701"
        mode, size, length = (int(archive[at : at + 8], 16) for at in (14, 54, 94))
        name = archive[110 : 110 + length - 1].decode()
        begin = (110 + length + 3) // 4 * 4
        if name == "TRAILER!!!":
            return files
        files[name] = (mode, archive[begin : begin + size])
        archive = archive[(begin + size + 3) // 4 * 4 :]


def test_the_archive_has_programs_modules_and_the_script(root: Path) -> None:
    files = _unpacked(initrd(root))
    assert files["bin"] == (0o040755, b"")
    assert files["bin/run-init"] == (0o100755, b"run-init")
    assert files["lib/klibc-AbC.so"] == files["usr/lib/klibc-AbC.so"] == (0o100755, b"the loader")
    script = files["init"][1].decode()
    assert script.index("virtio_ring.ko") < script.index("virtio_blk.ko") < script.index("mount -t ext4")
    assert {Path(module).name for module in MODULES} <= files.keys()


def test_modules_of_the_kernel_itself_are_left_out_and_compressed_ones_are_unpacked(root: Path) -> None:
    (drivers,) = root.glob("usr/lib/modules/*/kernel/drivers")
    (drivers.parent.parent / "modules.builtin").write_text("kernel/drivers/virtio/virtio.ko\n")
    (drivers / "virtio/virtio.ko").unlink()
    block = drivers / "block/virtio_blk.ko"
    block.with_name("virtio_blk.ko.xz").write_bytes(lzma.compress(b"the driver"))
    block.unlink()
    files = _unpacked(initrd(root))
    assert "virtio.ko" not in files
    assert files["virtio_blk.ko"][1] == b"the driver"


def test_a_debian_with_two_kernels_is_refused(root: Path) -> None:
    (root / "usr/lib/modules/6.2.0/kernel/drivers").mkdir(parents=True)
    with pytest.raises(ValueError, match="too many values"):
        initrd(root)
