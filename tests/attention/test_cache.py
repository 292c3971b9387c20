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


@pytest.mark.parametrize("room", [2, 3, 4])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_layers_without_room_on_the_device_are_read_as_they_were_written(device, room):
    gib = room * (2 * 3 * 128 * 2 * 4 * 4) / 2**30  # of one layer: keys and values of 3 slots
    caches = [KVCache(5, 3, 128, 2, 4, device=device, device_gib=limit) for limit in (None, gib)]
    assert [len(cache.keys) for cache in caches] == [5, room - 2]  # two more pass by
    torch.manual_seed(0)
    for slots in (3, 1, 1, 1, 1, 1):
        for layer in range(5):
            chunk = torch.randn(2, 1, 2, slots * 128, 4).to(device)
            plain, split = (cache.read(layer) for cache in caches)
            assert all(torch.equal(x, y) for x, y in zip(plain, split, strict=True))
            for cache in caches:
                cache.write(layer, chunk[0], chunk[1], block_means(chunk[0]))
        for cache in caches:
            cache.advance(slots)
        saved = caches[1].state_dict()
        if caches[1].slots_seen == 5:
            caches[1] = KVCache.from_state_dict(saved, device=device, device_gib=gib)
        caches[1] = caches[1].clone()
    assert torch.equal(saved["keys"], caches[0].state_dict()["keys"])


@pytest.mark.parametrize("room", [2, 4])
def test_layers_in_host_memory_take_a_chunk_slot_by_slot_as_others_do(room):
    gib = room * (2 * 3 * 128 * 2 * 4 * 4) / 2**30
    caches = [KVCache(5, 3, 128, 2, 4, device_gib=limit) for limit in (None, gib)]
    torch.manual_seed(0)
    for slots in (3, 4, 2):
        for layer in range(5):
            for ahead in range(slots):
                chunk = torch.randn(2, 1, 2, 128, 4)
                plain, split = (cache.read(layer, ahead=ahead) for cache in caches)
                assert all(torch.equal(x, y) for x, y in zip(plain, split, strict=True))
                for cache in caches:
                    cache.write(layer, chunk[0], chunk[1], block_means(chunk[0]), ahead=ahead)
        for cache in caches:
            cache.advance(slots)


def test_layers_in_host_memory_take_none_on_the_device_between_two_chunks():
    cache = KVCache(5, 3, 128, 2, 4, device_gib=3 * (2 * 3 * 128 * 2 * 4 * 4) / 2**30)
    for slots in (3, 1):
        for layer in range(5):
            cache.read(layer)
            cache.write(layer, *torch.zeros(2, 1, 2, slots * 128, 4), torch.zeros(1, 2, slots, 4))
        assert (cache._host._staged is not None) == (slots == 1)  # the first chunk has no past
        cache.advance(slots)
        assert cache._host._staged is None
        assert not cache._host._leaving


def test_too_little_room_on_the_device_is_refused_and_says_how_much_it_takes():
    with pytest.raises(ValueError, match=r"two layers take 0\.75 GiB on the device, got only 0\.5 GiB"):
        KVCache(30, 3, 2**14, 16, 64, device="meta", device_gib=0.5)


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
