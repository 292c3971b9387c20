import pytest
import torch
from torch import nn

from flashvsr.decoders import TinyConditionalDecoder
from flashvsr.models import DecoderSystem
from flashvsr.upscale.fingerprint import fingerprint_model, fingerprint_source


def test_a_file_is_told_from_one_of_the_same_size(tmp_path):
    file = tmp_path / "clip.mp4"
    file.write_bytes(b"a" * 5000)
    before = fingerprint_source(str(file))
    file.write_bytes(b"a" * 4999 + b"b")
    assert fingerprint_source(str(file)) != before


def test_a_moved_file_stays_the_same(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"a" * 5000)
    before = fingerprint_source(str(tmp_path / "clip.mp4"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "clip.mp4").rename(tmp_path / "elsewhere" / "clip.mp4")
    assert fingerprint_source(str(tmp_path / "elsewhere" / "clip.mp4")) == before


@pytest.mark.parametrize("name", ["", "%03d.png"])
def test_an_added_image_is_seen(tmp_path, name):
    (tmp_path / "001.png").write_bytes(b"a")
    before = fingerprint_source(str(tmp_path / name))
    (tmp_path / "002.png").write_bytes(b"b")
    assert fingerprint_source(str(tmp_path / name)) != before


def test_other_files_beside_a_pattern_do_not_count(tmp_path):
    (tmp_path / "001.png").write_bytes(b"a")
    before = fingerprint_source(str(tmp_path / "%03d.png"))
    (tmp_path / "notes.txt").write_bytes(b"b")
    assert fingerprint_source(str(tmp_path / "%03d.png")) == before


def test_a_missing_input_is_an_error():
    with pytest.raises(FileNotFoundError, match=r"nowhere.mp4 does not exist"):
        fingerprint_source("nowhere.mp4")


def test_models_with_other_weights_differ():
    torch.manual_seed(0)
    one, other = nn.Linear(300, 300), nn.Linear(300, 300)
    assert fingerprint_model(one) != fingerprint_model(other)
    other.load_state_dict(one.state_dict())
    assert fingerprint_model(one) == fingerprint_model(other)


def test_a_model_folder_is_told_by_its_files(tmp_path):
    (tmp_path / "model.yaml").write_text("dit: {}")
    before = fingerprint_model(tmp_path)
    (tmp_path / "model.yaml").write_text("dit: {a: 1}")
    assert fingerprint_model(tmp_path) != before
    assert fingerprint_model("nano") == "nano"


def test_a_system_with_another_detail_is_another_model():
    system = DecoderSystem(TinyConditionalDecoder(channels=(8, 8, 8, 8)))
    before = fingerprint_model(system)
    system.detail = 1.0
    assert fingerprint_model(system) == before
    system.detail = 0.6
    assert fingerprint_model(system) == f"{before}, detail 0.6"
