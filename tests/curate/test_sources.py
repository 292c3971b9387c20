from __future__ import annotations

import pytest

from flashvsr.curate import CurateError
from flashvsr.curate.sources import find_sources, read_licences


@pytest.fixture
def tree(tmp_path):
    for name in ("a/one.mp4", "a/deep/two.MKV", "a/.hidden.mp4", "a/notes.md", "b/one.mp4", "b/three.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def names(rows):
    return [(row.name, row.kind) for row in rows]


def test_a_folder_is_searched_by_ending_and_the_rest_is_counted(tree):
    rows, lines = find_sources([tree / "a"])
    assert names(rows) == [("deep/two.MKV", "video"), ("one.mp4", "video")]
    assert lines == ["passed over 1 files with other endings: 1 .md"]


def test_files_of_one_name_in_two_folders_are_told_apart(tree):
    rows, _ = find_sources([tree / "b", tree / "a"])
    assert [name for name, _ in names(rows)] == ["a/deep/two.MKV", "a/one.mp4", "b/one.mp4", "b/three.jpg"]
    assert find_sources([tree / "a", tree / "b"])[0] == rows


def test_a_list_names_files_relative_to_itself(tree):
    (tree / "list.txt").write_text(f"# mine\n\nb/one.mp4\n{tree}/a/deep/two.MKV\n")
    assert [name for name, _ in names(find_sources([tree / "list.txt"])[0])] == ["b/one.mp4", "two.MKV"]


def test_what_cannot_be_is_refused(tree):
    with pytest.raises(CurateError, match="no such file"):
        find_sources([tree / "c"])
    (tree / "list.txt").write_text("b/nine.mp4\n")
    with pytest.raises(CurateError, match=r"names b/nine\.mp4, which does not exist"):
        find_sources([tree / "list.txt"])
    with pytest.raises(CurateError, match=r"would both be called one\.mp4\nrename one"):
        find_sources([tree / "a" / "one.mp4", tree / "b" / "one.mp4"])
    (tree / "empty").mkdir()
    with pytest.raises(CurateError, match="no videos or pictures"):
        find_sources([tree / "empty"])


def test_licences_are_read_with_a_header_and_without(tmp_path):
    (tmp_path / "a.tsv").write_text("deep/one.mp4\tCC0-1.0\ntwo.jpg\tMIT\n")
    assert read_licences(tmp_path / "a.tsv") == {"deep/one.mp4": "CC0-1.0", "one.mp4": "CC0-1.0", "two.jpg": "MIT"}
    (tmp_path / "b.tsv").write_text("size\tfile\tlicense\n3\tone.mp4\tMIT\n")
    assert read_licences(tmp_path / "b.tsv") == {"one.mp4": "MIT"}
    (tmp_path / "c.tsv").write_text("one.mp4\n")
    with pytest.raises(CurateError, match=r"'one\.mp4' has no licence"):
        read_licences(tmp_path / "c.tsv")
    with pytest.raises(CurateError, match="cannot read"):
        read_licences(tmp_path / "d.tsv")
