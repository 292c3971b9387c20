from torch import equal, full

from flashvsr.data.batches import join


def part(value, images, broken):
    made = {"hr": full((1, 2), value), "seed": full((1,), value), "position": (0, 3), "broken": broken}
    return made | ({"image": {"hr": full((images, 2), value), "seed": full((images,), value)}} if images else {})


def test_parts_become_one_batch_in_their_order():
    batch = join([part(1, 0, ["a"]), part(2, 2, []), part(3, 1, ["b", "c"])])
    assert batch["seed"].tolist() == [1, 2, 3]
    assert batch["hr"].shape == (3, 2)
    assert batch["image"]["seed"].tolist() == [2, 2, 3]
    assert batch["position"] == (0, 3)
    assert batch["broken"] == ["a", "b", "c"]


def test_a_single_part_is_the_batch():
    only = part(1, 1, [])
    batch = join([only])
    assert equal(batch["hr"], only["hr"])
    assert batch.keys() == only.keys()
