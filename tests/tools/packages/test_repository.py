"""`tools.packages.repository`: the indexes of the apt repository."""

from hashlib import sha256

from tools.packages import repository


def test_an_index_entry_has_path_size_and_digest() -> None:
    made = repository.stanza("Package: cascadia\nVersion: 1\n", "pool/main/c/cascadia/a.deb", b"abc")
    assert made == (
        "Package: cascadia\nVersion: 1\nFilename: pool/main/c/cascadia/a.deb\nSize: 3\n"
        f"SHA256: {sha256(b'abc').hexdigest()}\n"
    )


def test_a_release_names_each_index_by_digest_and_size() -> None:
    files = {"main/binary-amd64/Packages.xz": b"x", "main/binary-amd64/Packages": b""}
    lines = repository.release("trixie", 1_796_000_000, files, label="Cascade").splitlines()
    assert "Date: Mon, 30 Nov 2026 00:53:20 UTC" in lines
    assert {"Suite: trixie", "Codename: trixie", "Acquire-By-Hash: yes", "Components: main"} <= set(lines)
    assert lines[lines.index("SHA256:") + 1 :] == [
        f" {sha256(b'').hexdigest()} 0 main/binary-amd64/Packages",
        f" {sha256(b'x').hexdigest()} 1 main/binary-amd64/Packages.xz",
    ]
