import sys

import pytest
import torch
from torch import nn

pytest.importorskip("peft", reason="peft is not installed: LoRA was not checked")

from flashvsr.attention import FullAttention
from flashvsr.models import VideoDiT, merge_lora, merged_state_dict, with_lora


def _dit(**arguments) -> VideoDiT:
    torch.manual_seed(0)
    sizes = {"dim": 24, "layers": 2, "heads": 2, "ffn_dim": 32, "frequency_dim": 8, "text_dim": None}
    return VideoDiT(**sizes, attention=FullAttention, **arguments)


def _run(dit: nn.Module) -> torch.Tensor:
    torch.manual_seed(1)
    latents, timestep = torch.randn(1, 16, 2, 4, 4), torch.tensor([500.0])
    return torch.cat(
        (dit(latents, timestep, streaming=False)[0], dit.forward_packed([latents[0]], timestep, [None])[0][None])
    )


def _stir(dit: nn.Module) -> None:
    for name, parameter in dit.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.2)


def test_an_untrained_adapter_changes_nothing_and_only_adapters_train():
    expected, dit = _run(_dit()), with_lora(_dit(), rank=2)
    assert isinstance(dit, VideoDiT)
    torch.testing.assert_close(_run(dit), expected)
    trained = {name for name, parameter in dit.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in dit.named_parameters() if "lora_" in name}
    assert len(trained) == 2 * 2 * 6  # two blocks, two matrices, six layers


@pytest.mark.parametrize("target", ["q", "k", "v", "o", "ffn.0", "ffn.2"])
def test_an_adapter_on_any_target_acts_on_the_output_and_gets_a_gradient(target):
    dit = with_lora(_dit(), rank=2, targets=(target,))
    _stir(dit)
    out = _run(dit)
    assert not torch.allclose(out, _run(_dit()), atol=1e-4)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for name, p in dit.named_parameters() if "lora_" in name)


@pytest.mark.parametrize("alpha", [None, 8.0])
def test_the_merged_network_equals_the_wrapped_one_under_the_plain_names(alpha):
    dit = with_lora(_dit(), rank=2, alpha=alpha)
    _stir(dit)
    expected, merged = _run(dit), merged_state_dict(dit)
    plain = _dit()
    plain.load_state_dict(merged, strict=True)
    torch.testing.assert_close(_run(plain), expected)
    torch.testing.assert_close(_run(dit), expected, rtol=0, atol=0)  # itself unchanged
    assert merge_lora(dit) is dit
    assert dit.state_dict().keys() == _dit().state_dict().keys()
    torch.testing.assert_close(_run(dit), expected)
    assert all(parameter.requires_grad for parameter in dit.parameters())
    with_lora(dit, rank=2)  # and may be adapted again


def test_weights_from_elsewhere_are_merged():
    dit = with_lora(_dit(), rank=2)
    _stir(dit)
    average = {name: 0.5 * value for name, value in dit.state_dict().items()}
    name = "blocks.0.self_attn.q"
    found = merged_state_dict(dit, average)[f"{name}.weight"]
    down, up = (average[f"{name}.lora_{side}.default.weight"] for side in "AB")
    torch.testing.assert_close(found, average[f"{name}.base_layer.weight"] + up @ down)


def test_a_network_without_adapters_has_its_own_weights():
    dit = _dit()
    assert all(torch.equal(value, dit.state_dict()[name]) for name, value in merged_state_dict(dit).items())
    assert merge_lora(dit) is dit


def test_a_linear_layer_named_like_an_adapter_suffix_is_no_target_by_accident():
    network = nn.ModuleDict({"q": nn.Linear(2, 2), "faq": nn.Linear(2, 2)})
    with_lora(network, rank=1, targets=("q",))
    assert set(merged_state_dict(network)) == {"q.weight", "q.bias", "faq.weight", "faq.bias"}
    assert isinstance(network["faq"], nn.Linear)


def test_mistakes_are_named(monkeypatch):
    with pytest.raises(ValueError, match="no linear layer of VideoDiT is named 'query'"):
        with_lora(_dit(), rank=2, targets=("q", "query"))
    with pytest.raises(ValueError, match="rank is at least 1, got 0"):
        with_lora(_dit(), rank=0)
    with pytest.raises(ValueError, match="has adapters already"):
        with_lora(with_lora(_dit(), rank=2), rank=2)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install flashvsr\[train\]"):
        with_lora(_dit(), rank=2)
