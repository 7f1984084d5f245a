"""Files that appear whole or not at all."""

import subprocess
import sys
from pathlib import Path

import pytest

from crossdna.errors import CrossDNAError
from crossdna.files import (
    atomic_directory,
    atomic_open,
    atomic_path,
    claim_output_directory,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_complete(tmp_path):
    target = tmp_path / "table.tsv"
    with atomic_open(target) as handle:
        handle.write("rows")
        assert not target.exists()
    assert target.read_text() == "rows"
    assert names(tmp_path) == ["table.tsv"]


def test_a_failure_leaves_what_was_there(tmp_path):
    target = tmp_path / "table.tsv"
    target.write_text("old")

    def write_half():
        with atomic_open(target) as handle:
            handle.write("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["table.tsv"]


def test_the_suffix_is_kept_for_writers_that_look_at_it(tmp_path):
    with atomic_path(tmp_path / "x.parquet") as temporary:
        assert temporary.suffix == ".parquet"
        temporary.write_bytes(b"")


def test_a_group_may_read_what_a_library_wrote_for_its_user_alone(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    # As safetensors 0.8 does.
    with atomic_path(tmp_path / "x") as path:
        path.touch(mode=0o600)
    with atomic_directory(tmp_path / "folder") as folder:
        (folder / "y").touch(mode=0o600)
    for written in (tmp_path / "x", tmp_path / "folder" / "y"):
        assert written.stat().st_mode == plain.stat().st_mode


def test_no_folder(tmp_path):
    target = tmp_path / "absent" / "x"
    with pytest.raises(CrossDNAError, match="cannot write"), atomic_open(target):
        pass


def test_a_killed_writer_leaves_no_file(tmp_path):
    script = (
        "import os, signal\nfrom crossdna.files import atomic_open\n"
        f"with atomic_open({str(tmp_path / 'x')!r}) as handle:\n"
        "    handle.write('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], check=False)
    assert result.returncode == -9
    assert not (tmp_path / "x").exists()


def test_a_full_disk_is_an_error_in_words(tmp_path):
    script = (
        "import resource, signal\n"
        "from crossdna.files import atomic_open\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"with atomic_open({str(tmp_path / 'x')!r}) as handle:\n"
        "    handle.write('x' * 100_000)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "CrossDNAError: cannot write" in result.stderr
    assert names(tmp_path) == []


def test_a_directory_appears_when_complete(tmp_path):
    target = tmp_path / "model"
    with atomic_directory(target) as staging:
        (staging / "weights").write_text("w")
        assert not target.exists()
    assert (target / "weights").read_text() == "w"
    with pytest.raises(RuntimeError), atomic_directory(tmp_path / "other") as staging:
        raise RuntimeError
    assert names(tmp_path) == ["model"]


def test_an_output_directory_is_not_shared(tmp_path):
    target = tmp_path / "run"
    assert claim_output_directory(target, resume=False) == target
    (target / "x").write_text("")
    assert claim_output_directory(target, resume=True) == target
    with pytest.raises(CrossDNAError, match=r"is not empty; continue .* --resume"):
        claim_output_directory(target, resume=False)
    with pytest.raises(CrossDNAError, match="is a file"):
        claim_output_directory(target / "x", resume=False)


def test_paths_may_be_strings(tmp_path):
    with atomic_open(str(tmp_path / "x")) as handle:
        handle.write("y")
    assert Path(tmp_path / "x").read_text() == "y"
