"""The published networks: names, counts, golden values, and the quirks that make them so."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from avsync.training.attention import (  # noqa: E402
    CrossAttentionEncoder,
    Positions,
    future_mask,
)
from avsync.training.networks import STACKS, VocaLiST  # noqa: E402
from avsync.training.syncnet import SyncNet  # noqa: E402

ARCHS = {"vocalist": VocaLiST.teacher, "mtdvocalist": VocaLiST.student, "syncnet": SyncNet}
GOLDEN = {"vocalist": "teacher", "mtdvocalist": "student", "syncnet": "syncnet"}


def close(value: Any, expected: Any, *, rtol: float = 1e-3, atol: float = 0.0) -> None:
    torch.testing.assert_close(
        torch.as_tensor(value).double(), torch.tensor(expected).double(), rtol=rtol, atol=atol
    )


@pytest.mark.parametrize("arch", ARCHS)
def test_state_dict_has_published_names_order_and_shapes(arch: str, published_names: Any) -> None:
    state = ARCHS[arch]().state_dict()
    assert [(name, tuple(t.shape)) for name, t in state.items()] == published_names(arch)


@pytest.mark.parametrize("arch", ARCHS)
def test_golden_parameter_count(arch: str, golden: Any) -> None:
    count = sum(p.numel() for p in ARCHS[arch]().parameters())
    assert count == golden[GOLDEN[arch]]["params"]


@pytest.mark.parametrize("arch", ["vocalist", "mtdvocalist"])
class TestGoldenVocaLiST:
    def test_logits(self, arch: str, golden: Any, golden_outputs: Any) -> None:
        close(golden_outputs(arch).logits, golden[GOLDEN[arch]]["logits"], rtol=0, atol=1e-4)

    def test_logits_of_other_pairs_by_fusion_alone(
        self, arch: str, golden: Any, golden_outputs: Any, golden_network: Any
    ) -> None:
        out = golden_outputs(arch)
        with torch.no_grad():
            flipped = golden_network(arch).fuse(out.video_tokens, out.audio_tokens.flip(0))
        close(flipped.logits, golden[GOLDEN[arch]]["logits_mel_flipped"], rtol=0, atol=1e-4)

    @pytest.mark.parametrize("stack", ["av", "fusion"])
    def test_last_attention(
        self, arch: str, stack: str, golden: Any, golden_outputs: Any, golden_network: Any
    ) -> None:
        # The golden row is of the pass with the mel order reversed: first pair, head 0.
        out = golden_outputs(arch)
        with torch.no_grad():
            flipped = golden_network(arch).fuse(out.video_tokens, out.audio_tokens.flip(0))
        row = flipped.relations[stack][3].attention()[0, 0, 0]
        close(row, golden[GOLDEN[arch]][f"{stack}_layer4_cross_attention_row0"])

    @pytest.mark.parametrize("stream", ["video", "audio"])
    def test_tokens(self, arch: str, stream: str, golden: Any, golden_outputs: Any) -> None:
        tokens = getattr(golden_outputs(arch), f"{stream}_tokens")
        expected = golden[GOLDEN[arch]][f"{stream}_tokens_mean_std"]
        close(torch.stack([tokens.mean(), tokens.std()]), expected)


def test_golden_syncnet(golden: Any, golden_network: Any, golden_inputs: Any) -> None:
    network, expected = golden_network("syncnet"), golden["syncnet"]
    with torch.no_grad():
        lip = network.encode_video(golden_inputs["lip"])
        audio = network.encode_audio(golden_inputs["audio"])
        pairs = network.fuse(lip[:, None], audio[None])
        forward = network(golden_inputs["lip"], golden_inputs["audio"])
    assert lip.shape == audio.shape == (2, 1024)
    close(lip[:, :8], expected["lip_embedding_first8"], atol=1e-4)
    close(audio[:, :8], expected["audio_embedding_first8"], atol=1e-4)
    close(lip.norm(dim=1), expected["lip_norm"])
    close(audio.norm(dim=1), expected["audio_norm"])
    close(pairs, expected["pairwise_l2"])
    close(forward, [expected["pairwise_l2"][0][0], expected["pairwise_l2"][1][1]])


def test_relations_are_given_per_stack_and_layer(golden_outputs: Any) -> None:
    out = golden_outputs("mtdvocalist")
    assert tuple(out.relations) == STACKS
    shapes = {"fusion": (16, 5), "av": (16, 5), "va": (5, 16)}
    for stack, layers in out.relations.items():
        queries, keys = shapes[stack]
        assert len(layers) == 4
        for known in layers:
            assert known.attention_logits.shape == (2, 8, queries, keys)
            assert known.values.shape == (2, 8, keys, 25)
            relation = known.value_logits()
            assert relation.shape == (2, 8, keys, keys)
            by_hand = (known.values[1, 3, 0] * known.values[1, 3, 4]).sum() / 5.0
            torch.testing.assert_close(relation[1, 3, 0, 4], by_hand)
            total = known.attention().sum(-1)
            torch.testing.assert_close(total, torch.ones_like(total))


def test_mask_hides_late_columns_from_early_queries_only_of_the_longer_sequence() -> None:
    assert torch.all(future_mask(16, 5) == 0)
    mask = future_mask(5, 16)
    for query in range(5):
        for column in range(16):
            hidden = column >= query + 12
            assert mask[query, column].item() == (float("-inf") if hidden else 0.0)


def test_masked_attention_is_minus_infinity_before_and_zero_after_softmax(
    golden_outputs: Any,
) -> None:
    known = golden_outputs("mtdvocalist").relations["va"][0]
    assert torch.all(torch.isneginf(known.attention_logits[:, :, 0, 12:]))
    assert torch.all(torch.isfinite(known.attention_logits[:, :, 4]))
    assert torch.all(known.attention()[:, :, 0, 12:] == 0)


def test_positions_follow_the_table_and_skip_tokens_with_zero_in_channel_0() -> None:
    positions = Positions(8)
    tokens = torch.ones(1, 3, 8)
    tokens[0, 1, 0] = 0.0
    got = positions(tokens)[0]
    rate = [10000.0 ** (-i / 3) for i in range(4)]
    for token, row in ((0, 1), (2, 3)):  # token t gets row t + 1
        angle = torch.tensor([row * w for w in rate])
        torch.testing.assert_close(got[token], torch.cat([angle.sin(), angle.cos()]))
    assert torch.all(got[1] == 0)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    encoder = CrossAttentionEncoder(16, heads=2, layers=1)
    query, source = torch.randn(1, 3, 16), torch.randn(1, 4, 16)
    encoder.eval()
    assert torch.equal(encoder(query, source)[0], encoder(query, source)[0])
    encoder.train()
    assert not torch.equal(encoder(query, source)[0], encoder(query, source)[0])


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    network = VocaLiST((4, 4, 4, 8, 16), layers=2).train()
    out = network(torch.rand(2, 15, 48, 96), torch.randn(2, 1, 80, 16))
    assert out.logits.shape == (2,)
    out.logits.square().sum().backward()
    missing = [name for name, p in network.named_parameters() if p.grad is None]
    assert missing == []


def test_wrong_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="five channel widths"):
        VocaLiST((16, 32, 64))
    with pytest.raises(ValueError, match="not divisible"):
        VocaLiST((4, 4, 4, 4, 20))
