import pytest
import torch

from flashvsr.attention import KVCache, block_means


def _filled(slots: int, history: int = 3, first: int = 3) -> tuple[KVCache, list[torch.Tensor]]:
    """A cache that has seen `first` slots at once and then one at a time, and the keys of every slot."""
    cache = KVCache(2, history, 128, heads=2, head_dim=4)
    keys = [torch.randn(1, 2, 128, 4) for _ in range(slots)]
    for chunk in [keys[:first], *([key] for key in keys[first:])]:
        joined = torch.cat(chunk, 2)
        for layer in range(2):
            cache.write(layer, joined + layer, -joined, block_means(joined))
        cache.advance(len(chunk))
    return cache, keys


@pytest.mark.parametrize("history", [1, 2, 3, 5])
@pytest.mark.parametrize("slots", [3, 4, 5, 9])
def test_the_last_slots_are_kept_in_the_places_the_cache_says(history, slots):
    cache, expected = _filled(slots, history)
    assert sorted(cache.positions) == list(range(max(0, slots - history), slots))
    for layer in range(2):
        keys, values, means = cache.read(layer)
        for place, slot in enumerate(cache.positions):
            assert torch.equal(keys[:, :, place * 128 : (place + 1) * 128], expected[slot] + layer)
            assert torch.equal(values[:, :, place * 128 : (place + 1) * 128], -expected[slot])
            assert torch.equal(means[:, :, place : place + 1], block_means(expected[slot]))


def test_a_clone_does_not_follow_and_a_saved_cache_comes_back():
    cache, _ = _filled(4)
    clone, saved = cache.clone(), cache.state_dict()
    before = cache.read(0)[0].clone()
    cache.write(0, torch.zeros(1, 2, 128, 4), torch.zeros(1, 2, 128, 4), torch.zeros(1, 2, 1, 4))
    assert torch.equal(clone.read(0)[0], before)
    assert torch.equal(KVCache.from_state_dict(saved).read(0)[0], before)
    assert not torch.equal(cache.read(0)[0], before)


def test_reading_copies_nothing():
    cache, _ = _filled(4)
    assert cache.read(1)[0].untyped_storage().data_ptr() == cache.keys.untyped_storage().data_ptr()


def test_a_cache_made_in_inference_mode_goes_on_outside_of_it_and_stores_no_graph():
    with torch.inference_mode():
        cache, _ = _filled(4)
    chunk = torch.randn(1, 2, 128, 4, requires_grad=True)
    cache.write(0, chunk, chunk, block_means(chunk))
    assert not cache.keys.requires_grad


def test_a_saved_cache_with_other_keys_is_refused():
    with pytest.raises(ValueError, match="got keys"):
        KVCache.from_state_dict({"keys": torch.zeros(1)})


def test_sizes_that_make_no_sense_are_refused_by_value():
    with pytest.raises(ValueError, match="slot_tokens=100"):
        KVCache(1, 3, 100, 2, 4)
    with pytest.raises(ValueError, match="history=-1"):
        KVCache(1, -1, 128, 2, 4)
