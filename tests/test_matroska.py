"""The codec's delay of sound that begins late, taken out of Matroska files."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from offset_clips import clip, digest, hashes

import avsync
from avsync.matroska import clear_codec_delay


@pytest.mark.parametrize("name", ["aac.mkv", "opus.webm"])
def test_late_sound_has_no_delay(name: str, tmp_path: Path) -> None:
    made = clip(tmp_path, name, 120)
    with av.open(str(made.path)) as film:
        sound = film.streams.audio[0]
        delay_s = sound.codec_context.delay / sound.codec_context.sample_rate
    assert delay_s > 0.006
    out = tmp_path / f"out{made.path.suffix}"
    for shift_ms, left in ((120.0, 0), (5.0, delay_s)):
        avsync.fix(made.path, out, offset_ms=shift_ms)
        assert hashes(out, "audio") == hashes(made.path, "audio")
        with av.open(str(out)) as film:
            sound = film.streams.audio[0]
            first = next(film.demux(sound))
            assert sound.codec_context.delay / 48_000 == pytest.approx(left, abs=1e-6)
            head = sound.codec_context.extradata or b""
            assert float(first.pts * first.time_base) == pytest.approx(
                shift_ms / 1000 - delay_s, abs=0.0011
            )
        if head.startswith(b"OpusHead"):
            assert int.from_bytes(head[10:12], "little") == round(48_000 * left)


def test_the_checksum_is_that_of_the_writer(tmp_path: Path) -> None:
    path = clip(tmp_path, "aac.mkv").path
    before = digest(path)
    clear_codec_delay(path, [99])  # no such track: the checksum is worked out all the same
    assert digest(path) == before
    clear_codec_delay(path, [2])
    once = digest(path)
    assert once != before
    clear_codec_delay(path, [2])
    assert digest(path) == once
    text = tmp_path / "text.mkv"
    text.write_bytes(b"\x1a\x45\xdf\xa3\x80" * 3)
    with pytest.raises(ValueError, match="no list of tracks"):
        clear_codec_delay(text, [1])
