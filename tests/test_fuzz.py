"""A small number of damaged files; tests/fuzz.py tries any number."""
import fuzz
import pytest
from small_vgg import shrink


@pytest.mark.filterwarnings('ignore')
def test_damaged_pictures(tmp_path):
    found = fuzz.fuzz_pictures(400, 7, tmp_path)
    assert {end for _, end in found} == {'read', 'one line'} and {form for form, _ in found} == set(fuzz.FORMS)


@pytest.mark.filterwarnings('ignore')
def test_damaged_weights(tmp_path, monkeypatch):
    shrink(monkeypatch)
    found = fuzz.fuzz_weights(40, 7, tmp_path)
    assert {end for _, end in found} == {'read', 'one line'}
